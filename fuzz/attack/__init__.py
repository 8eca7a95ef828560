"""A million hostile frames against a real gateway process: what is sent, who sends it, and who watches."""

"""What is made from the protocol's code: the AsyncAPI document and its examples."""

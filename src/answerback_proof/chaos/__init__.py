"""Chaos on the real thing: a gateway that is killed, frozen and cut off while hundreds of apps ask.

    apps (the SDK) --> proxy (reads along; cuts, stalls) --> gateway (killed, stopped, frozen, no disk) --> store
                                                                 |                                        (restarted)
                                                                 +--> recording model (reports each of its runs)

The checker looks at it from outside the gateway: what the apps saw, what went over the wire, how often the model ran,
and, after the gateway has stopped, what the store holds.
"""

//! Which gateway is who, what it may say, and where a letter stands: keys, envelopes, policy, membership and the letter's life as plain state machines.

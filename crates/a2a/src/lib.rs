//! The A2A protocol, version 1.0, outward and inward.

//! Placeholder until the record room lands.

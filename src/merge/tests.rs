//! The rules by example, and the laws on random histories.

mod examples;
mod laws;
mod world;

//! The rules by example, and the laws on random histories.

mod examples;
mod history;
mod laws;
mod world;

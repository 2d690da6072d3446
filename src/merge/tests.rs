//! The rules by example, and the laws on random histories.

mod carried;
mod cases;
mod cost;
mod derived;
mod examples;
mod history;
mod laws;
mod links;
mod world;

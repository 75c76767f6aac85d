//! The integration tests: one binary over the real `doorward`, and the rules of the house.

mod architecture;
mod demo_data;
mod fuzz;

//! The integration tests: one binary over the real `doorward`, and the rules of the house.

mod analysis;
mod architecture;
mod attacks;
mod bed;
mod bounds;
mod clients;
mod command_line;
mod dashboards;
mod demo_data;
mod erasure;
mod errors;
mod faults;
mod fuzz;
mod identity;
mod ingest;
mod kill9;
mod observe;
mod proof;
mod road;
mod secrets;
mod sinks;
mod spool_faults;
mod tamper;
mod tamper_pg;
mod timeline_pg;
mod witness;

//! bulkhead's entry point. Never holds logic: the library does.

fn main() {}

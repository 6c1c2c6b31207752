//! Property tests.

use proptest::test_runner::{Config, FileFailurePersistence};

/// Settings of property tests: what once failed is kept beside the test's source and tried first.
pub fn property_cases(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    }
}

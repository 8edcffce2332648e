//! Oracles for fuzzing and property tests.

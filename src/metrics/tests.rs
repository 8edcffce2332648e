//! Tests of the families as a whole.

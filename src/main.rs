//! The `keyward` program: see the library's documentation.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyward::cli::main(std::env::args_os())
}

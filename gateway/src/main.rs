//! The `tarn` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    tarn::cli::main()
}

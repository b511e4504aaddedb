//! The program `conformance`: see the crate.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    doorbell_conformance::program()
}

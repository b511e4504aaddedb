//! Starting programs: closed standard input, and errors of one line that name the command.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a program to its end, with its output passed through.
///
/// The command line goes to standard error first, as a person would type it to repeat this step alone.
///
/// # Errors
/// If the program cannot be started or ends with a status other than 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("  $ {}", describe(command));
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{}`", describe(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", describe(command));
    }
    Ok(())
}

/// Runs a program as [`run`] does, with its standard output sent to standard error.
pub(crate) fn run_to_stderr(command: &mut Command) -> Result<()> {
    run(command.stdout(Stdio::from(io::stderr())))
}

/// What a program prints on standard output; its standard error is passed through.
///
/// # Errors
/// If it cannot be started, fails, or prints something that is not UTF-8.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", describe(command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", describe(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed bytes that are not UTF-8", describe(command)))
}

/// What a program prints on standard output whatever its status, or `None` if it cannot be started. For questions
/// such as "is it there, and which version".
pub(crate) fn ask(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// Whether a program can be started and ends with status 0. Its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The command as one line of shell: the variables set for it, the program, its arguments.
pub(crate) fn describe(command: &Command) -> String {
    let mut words = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!("{}={}", name.to_string_lossy(), quote(&value.to_string_lossy())));
        }
    }
    let program = Path::new(command.get_program());
    // Cargo tells its own full path; everyone has it on `PATH`.
    let is_cargo = program.file_name().is_some_and(|name| name == "cargo");
    words.push(if is_cargo { "cargo".to_owned() } else { quote(&program.to_string_lossy()) });
    words.extend(command.get_args().map(|argument| quote(&argument.to_string_lossy())));
    words.join(" ")
}

/// A word as the shell wants it: in quotes if it has anything that a shell would take for its own.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_described_command_can_be_typed() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.env("RUSTFLAGS", "--cfg loom").env_remove("HOME").args(["test", "it's", ""]);
        assert_eq!(describe(&command), r"RUSTFLAGS='--cfg loom' cargo test 'it'\''s' ''");
    }

    #[test]
    fn a_failing_program_is_named_with_its_status() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'exit 3'` failed (exit status: 3)");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = capture(&mut Command::new("/nowhere/no-such-program")).unwrap_err();
        assert!(error.to_string().contains("cannot start `/nowhere/no-such-program`"), "{error:#}");
        assert_eq!(ask(&mut Command::new("/nowhere/no-such-program")), None);
        assert!(!succeeds(&mut Command::new("/nowhere/no-such-program")));
    }
}

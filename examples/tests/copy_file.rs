//! The example runs as its README line says.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::process::{Command, Output};

fn copy_file(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_copy-file")).args(arguments).output().unwrap()
}

#[test]
fn a_file_of_odd_length_comes_back_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let content: Vec<u8> = (0..3_000_123_u32).map(|at| (at.wrapping_mul(at) >> 7) as u8).collect();
    std::fs::write(&file, &content).unwrap();
    for buffers in ["1", "8"] {
        let output = copy_file(&["--buffers", buffers, file.to_str().unwrap()]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("copied 3000123 bytes onto soft:nvme and back: the same bytes"));
        for line in ["file to device", "device to file", "file to file"] {
            assert!(said.contains(line), "{said}");
        }
    }
    assert_eq!(std::fs::read(&file).unwrap(), content, "the source is only read");
}

#[test]
fn mistakes_are_named_in_one_line() {
    for (arguments, named) in [
        (&["/no/such/file"][..], "'/no/such/file'"),
        (&["/"], "'/' is no regular file"),
        (&["--buffers", "0"], "'0'"),
        (&["--bufers"], "'--bufers'"),
        (&["--device"], "'--device'"),
        (&["--device", "soft:nvme,ram=1M"], "room for"),
    ] {
        let output = copy_file(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("copy-file: ") && said.contains(named), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert!(copy_file(&["--help"]).status.success());
}

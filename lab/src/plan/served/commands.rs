//! `nvme-cli` inside the guest.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::files::LEFT;
use super::{CONTROLLER, LOAD, must, namespace, run};
use crate::host::{firmware, sites};
use crate::pattern;
use crate::plan::cx::{Cx, Trouble, Verdict, check};

fn nvme(cx: &Cx<'_>, arguments: &[&str]) -> Result<Command, Trouble> {
    let mut command = cx.tool("nvme")?;
    command.args(arguments);
    Ok(command)
}

/// What a command prints as JSON.
fn json(cx: &mut Cx<'_>, arguments: &[&str]) -> Result<Value, Trouble> {
    let mut command = nvme(cx, arguments)?;
    let ended = must(cx, command.arg("--output-format=json"))?;
    serde_json::from_slice(&ended.out).map_err(|error| {
        Trouble::Failed(format!("nvme {} prints no JSON: {error}", arguments.join(" ")))
    })
}

fn number(value: &Value, name: &str) -> Result<u64, Trouble> {
    let found = value.get(name).and_then(|found| {
        // Some versions print what is wider than 64 bits as text.
        found.as_u64().or_else(|| found.as_str()?.parse().ok())
    });
    found.ok_or_else(|| Trouble::Failed(format!("there is no number {name} in {value}")))
}

pub(in crate::plan) fn tools(cx: &mut Cx<'_>) -> Verdict {
    let controller = json(cx, &["id-ctrl", CONTROLLER])?;
    let serial = controller.get("sn").and_then(Value::as_str).unwrap_or_default().trim();
    check(serial == sites::SERIAL, || format!("id-ctrl: the serial number is {serial:?}"))?;
    let namespaces = number(&controller, "nn")?;
    check(namespaces == 2, || format!("id-ctrl: {namespaces} namespaces"))?;
    for (nsid, image) in [("1", sites::FILES), ("2", sites::LOAD)] {
        let namespace = json(cx, &["id-ns", CONTROLLER, "-n", nsid])?;
        let blocks = number(&namespace, "nsze")?;
        check(blocks == image.blocks, || format!("id-ns {nsid}: {blocks} blocks"))?;
    }
    let smart = json(cx, &["smart-log", CONTROLLER])?;
    let warning = number(&smart, "critical_warning")?;
    let writes = number(&smart, "host_write_commands")?;
    check(warning == 0, || format!("smart-log: critical warning {warning}"))?;
    for arguments in [
        &["list-ns", CONTROLLER][..],
        &["ns-descs", CONTROLLER, "-n", "1"],
        &["error-log", CONTROLLER],
        &["fw-log", CONTROLLER],
        &["effects-log", CONTROLLER],
        &["supported-log-pages", CONTROLLER],
    ] {
        // Older versions lack some of them, and say so by their usage.
        let mut command = nvme(cx, arguments)?;
        let ended = run(cx, &mut command)?;
        let said = format!("{}{}", String::from_utf8_lossy(&ended.out), ended.err);
        let lacking = said.contains("Invalid sub-command");
        check(ended.status.success() || lacking, || {
            format!("nvme {} ended with {}: {}", arguments.join(" "), ended.status, said.trim())
        })?;
    }
    Ok(format!("serial number {serial}, 2 namespaces, {writes} writes so far"))
}

/// A command that is not valid: arguments after the device, and the status (type and code) that it must end with.
struct Invalid {
    about: &'static str,
    arguments: &'static [&'static str],
    status: u16,
}

const fn invalid(about: &'static str, arguments: &'static [&'static str], status: u16) -> Invalid {
    Invalid { about, arguments, status }
}

/// A Format NVM that formats nothing.
const FORMAT: Invalid = invalid(
    "Format NVM to LBA format 15",
    &["admin-passthru", "--opcode=0x80", "--namespace-id=2", "--cdw10=0xf"],
    0x10a,
);

/// Status codes as the base specification has them (3.3.3.2): type in bits 10 to 8, code in bits 7 to 0.
const INVALID: [Invalid; 16] = [
    invalid("an opcode that does not exist", &["admin-passthru", "--opcode=0x7f"], 0x001),
    invalid("a vendor's opcode", &["admin-passthru", "--opcode=0xc1"], 0x001),
    invalid(
        "Identify of namespace 80",
        &["admin-passthru", "--opcode=6", "--namespace-id=80", "--data-len=4096", "--read"],
        0x00b,
    ),
    invalid(
        "Identify with CNS f0h",
        &["admin-passthru", "--opcode=6", "--cdw10=0xf0", "--data-len=4096", "--read"],
        0x002,
    ),
    invalid(
        "log page 7fh",
        &[
            "admin-passthru",
            "--opcode=2",
            "--namespace-id=0xffffffff",
            "--cdw10=0x3ff007f",
            "--data-len=4096",
            "--read",
        ],
        0x109,
    ),
    invalid("feature 0", &["admin-passthru", "--opcode=9", "--cdw10=0"], 0x002),
    invalid("feature f0h", &["admin-passthru", "--opcode=9", "--cdw10=0xf0"], 0x002),
    FORMAT,
    invalid(
        "Format NVM of namespace 80",
        &["admin-passthru", "--opcode=0x80", "--namespace-id=80"],
        0x00b,
    ),
    invalid("Delete I/O SQ 0", &["admin-passthru", "--opcode=0", "--cdw10=0"], 0x101),
    invalid("Delete I/O SQ 500", &["admin-passthru", "--opcode=0", "--cdw10=500"], 0x101),
    invalid(
        "Delete I/O CQ 1, which a queue uses",
        &["admin-passthru", "--opcode=4", "--cdw10=1"],
        0x10c,
    ),
    invalid(
        "Create I/O CQ 0",
        &["admin-passthru", "--opcode=5", "--cdw10=0xf0000", "--cdw11=1"],
        0x101,
    ),
    invalid(
        "Create I/O CQ 1, which exists",
        &["admin-passthru", "--opcode=5", "--cdw10=0xf0001", "--cdw11=1"],
        0x101,
    ),
    invalid(
        "an I/O opcode that does not exist",
        &["io-passthru", "--opcode=0x7f", "--namespace-id=2"],
        0x001,
    ),
    invalid(
        "a read past the end",
        &[
            "io-passthru",
            "--opcode=2",
            "--namespace-id=2",
            "--cdw10=0x7fffffff",
            "--data-len=512",
            "--read",
        ],
        0x080,
    ),
];

pub(in crate::plan) fn refusals(cx: &mut Cx<'_>) -> Verdict {
    for command in INVALID {
        refused(cx, &command)?;
    }
    let entries = json(cx, &["error-log", CONTROLLER])?;
    let entries = entries.get("errors").and_then(Value::as_array).cloned().unwrap_or_default();
    let counted =
        entries.iter().filter(|entry| number(entry, "error_count").is_ok_and(|count| count > 0));
    let counted = counted.count();
    check(counted > 0, || "the error log is empty after all that".to_owned())?;
    let state = fs::read_to_string("/sys/class/nvme/nvme0/state")?;
    check(state.trim() == "live", || format!("the controller is {}", state.trim()))?;
    Ok(format!(
        "{} commands refused with the right status, {counted} in the error log",
        INVALID.len()
    ))
}

/// Sends a command that is not valid.
fn refused(cx: &mut Cx<'_>, Invalid { about, arguments, status }: &Invalid) -> Result<(), Trouble> {
    let (command, rest) = arguments.split_first().unwrap_or((&"", &[]));
    let device = match *command {
        "io-passthru" => namespace(LOAD)?.device,
        _ => CONTROLLER.to_owned(),
    };
    let mut command = nvme(cx, &[command, &device])?;
    let ended = run(cx, command.args(rest.iter()))?;
    let said = format!("{} {}", String::from_utf8_lossy(&ended.out), ended.err);
    let found = status_in(&said);
    check(!ended.status.success() && found == Some(*status), || {
        format!("{about}: status {found:x?} and not {status:x}: {}", said.trim())
    })
}

/// Waits for the kernel to have looked at all namespaces. A reset has that done in the background, and says
/// nowhere in sysfs that it is over. But a command that may change namespaces, by the kernel's list, ends only
/// after they were looked at anew, whether it has succeeded or not; and so after any look that was asked for before.
pub(super) fn until_scanned(cx: &mut Cx<'_>) -> Result<(), Trouble> {
    refused(cx, &FORMAT)
}

/// The status in what nvme-cli prints: "NVMe status: ...(0x4001)", with the do-not-retry and more bits above.
fn status_in(said: &str) -> Option<u16> {
    let line = said.lines().find(|line| line.to_lowercase().contains("nvme status"))?;
    let digits = line.rsplit("0x").next()?;
    let digits: String = digits.chars().take_while(char::is_ascii_hexdigit).collect();
    Some(u16::from_str_radix(&digits, 16).ok()? & 0x7ff)
}

pub(in crate::plan) fn format(cx: &mut Cx<'_>) -> Verdict {
    let load = namespace(LOAD)?;
    let block = |want: &str| -> Result<(), Trouble> {
        let size = load.attribute("queue/logical_block_size")?;
        check(size == want, || format!("blocks have {size} bytes, not {want}"))
    };
    let device = load.device.as_str();
    for (lbaf, secure, size) in [("1", "0", "4096"), ("0", "1", "512")] {
        fs::write(device, [0x5a; 1 << 16])?;
        rustix::fs::sync();
        let mut command =
            nvme(cx, &["format", device, "--lbaf", lbaf, "--ses", secure, "--force"])?;
        must(cx, &mut command)?;
        block(size)?;
        super::drop_caches()?;
        let mut data = vec![0; 1 << 16];
        std::os::unix::fs::FileExt::read_exact_at(&fs::File::open(device)?, &mut data, 0)?;
        check(data.iter().all(|byte| *byte == 0), || "data is left after Format NVM".to_owned())?;
    }
    let left = pattern::blocks(LEFT, 0, u64::from(firmware::BLOCKS));
    fs::write(device, left)?;
    super::drop_caches()?;
    Ok("to 4096-byte blocks and, with user data erase, back to 512".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_found_in_what_several_versions_print() {
        let old = "NVMe status: INVALID_OPCODE: The associated command opcode field is not valid(0x4001)\n";
        assert_eq!(status_in(old), Some(1));
        let new = "NVMe status: Invalid Log Page: The log page indicated is invalid(0x6109)\n";
        assert_eq!(status_in(new), Some(0x109));
        assert_eq!(status_in("passthru: Invalid argument"), None);
    }
}

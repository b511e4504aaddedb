//! Names of vendors, devices and classes, from `pci.ids` where the machine has it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes of the largest list that is read; the one of 2026 has 1.6 MB.
const LARGEST: u64 = 32 << 20;

/// Longest name that is shown.
const LONGEST: usize = 100;

/// Where distributions put the list, below `/usr/share`.
const PLACES: &[&str] = &["misc/pci.ids", "hwdata/pci.ids"];

/// The names of common classes, for machines without the list (PCI code and id assignment 1.11, 1).
const CLASSES: &[(u32, &str)] = &[
    (0x01_0601, "SATA controller (AHCI)"),
    (0x01_0802, "NVMe controller"),
    (0x01_08, "Non-Volatile memory controller"),
    (0x01_00, "SCSI controller"),
    (0x01_04, "RAID controller"),
    (0x01_06, "SATA controller"),
    (0x02_00, "Ethernet controller"),
    (0x03_00, "VGA controller"),
    (0x04_03, "Audio device"),
    (0x06_00, "Host bridge"),
    (0x06_01, "ISA bridge"),
    (0x06_04, "PCI bridge"),
    (0x08_01, "DMA controller"),
    (0x0c_03, "USB controller"),
    (0x0c_05, "SMBus"),
    (0x12_00, "Processing accelerator"),
    (0x01, "Mass storage controller"),
    (0x02, "Network controller"),
    (0x03, "Display controller"),
    (0x04, "Multimedia controller"),
    (0x05, "Memory controller"),
    (0x06, "Bridge"),
    (0x07, "Communication controller"),
    (0x08, "System peripheral"),
    (0x09, "Input device"),
    (0x0b, "Processor"),
    (0x0c, "Serial bus controller"),
    (0x0d, "Wireless controller"),
    (0x10, "Encryption controller"),
    (0x11, "Signal processing controller"),
    (0x12, "Processing accelerator"),
];

/// The list of names. Without one there are still names for common classes.
#[derive(Debug, Clone, Default)]
pub struct Ids {
    text: String,
}

impl Ids {
    /// Reads the list from the places that distributions use, below a folder such as `/usr/share`.
    /// A list that is missing, or cannot be read, is an empty one.
    #[must_use]
    pub fn load(share: &Path) -> Self {
        let texts = PLACES.iter().filter_map(|place| {
            let mut bytes = Vec::new();
            let file = File::open(share.join(place)).ok()?;
            file.take(LARGEST).read_to_end(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        });
        Self { text: texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default() }
    }

    /// A vendor's name.
    #[must_use]
    pub fn vendor(&self, vendor: u16) -> Option<String> {
        named(self.vendor_lines(vendor).next()?, &format!("{vendor:04x}"))
    }

    /// A device's name.
    #[must_use]
    pub fn device(&self, vendor: u16, device: u16) -> Option<String> {
        let id = format!("{device:04x}");
        self.vendor_lines(vendor).skip(1).find_map(|line| named(line.strip_prefix('\t')?, &id))
    }

    /// A class by its 24 bits: the name of the narrowest part that has one.
    #[must_use]
    pub fn class(&self, class: u32) -> Option<String> {
        self.listed_class(class).or_else(|| {
            let parts = [class & 0xff_ffff, class >> 8 & 0xffff, class >> 16 & 0xff];
            let known = CLASSES.iter().find(|(code, _)| parts.contains(code));
            known.map(|(_, name)| (*name).to_owned())
        })
    }

    /// Vendor and device in words, as far as there are words.
    #[must_use]
    pub fn describe(&self, vendor: u16, device: u16, class: u32) -> String {
        match (self.vendor(vendor), self.device(vendor, device)) {
            (Some(vendor), Some(device)) => format!("{vendor} {device}"),
            (vendor, _) => {
                let class = self.class(class).unwrap_or_else(|| format!("class {class:06x}"));
                vendor.map_or_else(|| class.clone(), |vendor| format!("{vendor} {class}"))
            }
        }
    }

    /// The line of a vendor and those that belong to it.
    fn vendor_lines(&self, vendor: u16) -> impl Iterator<Item = &str> {
        self.section(format!("{vendor:04x}  "))
    }

    /// A line that begins so, and the indented and comment lines after it.
    fn section(&self, begin: String) -> impl Iterator<Item = &str> {
        let mut lines = self.text.lines().skip_while(move |line| !line.starts_with(&begin));
        let first = lines.next();
        let more = lines.take_while(|line| line.starts_with(['\t', '#']));
        first.into_iter().chain(more.filter(|line| !line.starts_with('#')))
    }

    fn listed_class(&self, class: u32) -> Option<String> {
        let (base, sub, interface) = (class >> 16 & 0xff, class >> 8 & 0xff, class & 0xff);
        let lines: Vec<_> = self.section(format!("C {base:02x}  ")).collect();
        let (sub, interface) = (format!("{sub:02x}"), format!("{interface:02x}"));
        let mut inner = lines.iter().skip_while(|line| {
            line.strip_prefix('\t').is_none_or(|line| named(line, &sub).is_none())
        });
        let Some(sub_line) = inner.next() else {
            return named(lines.first()?.strip_prefix("C ")?, &format!("{base:02x}"));
        };
        let narrow = inner
            .map_while(|line| line.strip_prefix("\t\t"))
            .find_map(|line| named(line, &interface));
        let name = named(sub_line.strip_prefix('\t')?, &sub)?;
        Some(narrow.map_or(name.clone(), |narrow| format!("{name} ({narrow})")))
    }
}

/// The name on a line `ID  NAME`, if it is this id's.
fn named(line: &str, id: &str) -> Option<String> {
    let name = line.strip_prefix(id)?.strip_prefix("  ")?.trim();
    let name: String = name.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "# a comment\n\
1b36  Red Hat, Inc.\n\
\t0001  QEMU PCI-PCI bridge\n\
# inside\n\
\t0010  QEMU NVM Express Controller\n\
\t\t1af4 1100  A subsystem\n\
1b37  Someone\u{1b}[31m\n\
C 01  Mass storage controller\n\
\t06  SATA controller\n\
\t\t01  AHCI 1.0\n\
\t08  Non-Volatile memory controller\n\
\t\t02  NVM Express\n\
C 02  Network controller\n";

    #[test]
    fn names_come_from_the_list() {
        let ids = Ids { text: LIST.to_owned() };
        assert_eq!(ids.vendor(0x1b36).as_deref(), Some("Red Hat, Inc."));
        assert_eq!(ids.device(0x1b36, 0x10).as_deref(), Some("QEMU NVM Express Controller"));
        assert_eq!(ids.device(0x1b36, 0x1af4), None, "a subsystem is no device");
        assert_eq!(ids.vendor(0x1b37).as_deref(), Some("Someone[31m"), "no control characters");
        let class = ids.class(0x01_0802).unwrap();
        assert_eq!(class, "Non-Volatile memory controller (NVM Express)");
        assert_eq!(ids.class(0x01_06ff).as_deref(), Some("SATA controller"));
        assert_eq!(ids.class(0x01_9999).as_deref(), Some("Mass storage controller"));
        assert_eq!(ids.describe(0x1b37, 1, 0x02_0000), "Someone[31m Network controller");
    }

    #[test]
    fn without_a_list_there_are_classes_and_numbers() {
        let ids = Ids::load(Path::new("/nowhere"));
        assert_eq!(ids.describe(0x1b36, 0x10, 0x01_0802), "NVMe controller");
        assert_eq!(ids.describe(0x1234, 0x11e8, 0x00_ff00), "class 00ff00");
        assert_eq!(ids.class(0x0c_0599).as_deref(), Some("SMBus"));
    }
}

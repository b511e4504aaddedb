//! PCI functions in sysfs: whose they are, and handing them to another driver.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where functions are.
const DEVICES: &str = "/sys/bus/pci/devices";

/// A PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its address, as sysfs writes it.
    pub address: String,
}

impl Function {
    /// The function at an address.
    #[must_use]
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into() }
    }

    /// The first function below the bridge at `bridge`: the only one, or the physical one that others belong to.
    #[must_use]
    pub fn below(bridge: &str) -> Option<Self> {
        let entries = fs::read_dir(Path::new(DEVICES).join(bridge)).ok()?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| is_address(name)).min().map(Self::at)
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        Path::new(DEVICES).join(&self.address)
    }

    /// Whether it is plugged in.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.folder().is_dir()
    }

    /// One of its attributes.
    ///
    /// # Errors
    /// If it has none of that name.
    pub fn attribute(&self, name: &str) -> io::Result<String> {
        let file = self.folder().join(name);
        let text = fs::read_to_string(&file).map_err(|error| about(&file, &error))?;
        Ok(text.trim_end().to_owned())
    }

    /// The name that one of its links points to.
    fn link(&self, name: &str) -> Option<String> {
        let target = fs::read_link(self.folder().join(name)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// The driver that holds it.
    #[must_use]
    pub fn driver(&self) -> Option<String> {
        self.link("driver")
    }

    /// The number of its IOMMU group.
    #[must_use]
    pub fn group(&self) -> Option<String> {
        self.link("iommu_group")
    }

    /// The name of its VFIO device (`vfio0`), where the kernel gives one.
    #[must_use]
    pub fn vfio_device(&self) -> Option<String> {
        let mut entries = fs::read_dir(self.folder().join("vfio-dev")).ok()?;
        Some(entries.next()?.ok()?.file_name().to_string_lossy().into_owned())
    }

    /// Gives it to `driver`, whoever holds it now.
    ///
    /// # Errors
    /// If the kernel refuses, or another driver holds it afterwards.
    pub fn bind(&self, driver: &str) -> io::Result<()> {
        if self.driver().as_deref() == Some(driver) {
            return Ok(());
        }
        self.unbind()?;
        self.write("driver_override", driver)?;
        write(Path::new("/sys/bus/pci/drivers_probe"), &self.address)?;
        let held = self.driver();
        if held.as_deref() != Some(driver) {
            let held = held.unwrap_or_else(|| "no driver".to_owned());
            return Err(io::Error::other(format!(
                "{} is held by {held}, not by {driver}",
                self.address
            )));
        }
        Ok(())
    }

    /// Gives it back to the driver that the kernel chooses, which must be `driver`.
    ///
    /// # Errors
    /// As [`Function::bind`].
    pub fn restore(&self, driver: &str) -> io::Result<()> {
        self.bind(driver)?;
        self.write("driver_override", "\n")
    }

    /// Takes it from the driver that holds it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn unbind(&self) -> io::Result<()> {
        if self.driver().is_some() {
            self.write("driver/unbind", &self.address.clone())?;
        }
        Ok(())
    }

    /// Writes one of its attributes.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn write(&self, name: &str, text: &str) -> io::Result<()> {
        write(&self.folder().join(name), text)
    }

    /// How many interrupts of it the kernel has counted on all processors.
    ///
    /// # Errors
    /// If `/proc/interrupts` cannot be read.
    pub fn interrupts(&self) -> io::Result<u64> {
        let table = fs::read_to_string("/proc/interrupts")?;
        Ok(table.lines().filter(|line| line.contains(&self.address)).map(count).sum())
    }
}

/// The counts of a line of `/proc/interrupts`: "24:  5  7  IR-PCI-MSIX-0000:00:04.0  0-edge  vfio-msix[0](0000:00:04.0)".
fn count(line: &str) -> u64 {
    line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum()
}

fn is_address(name: &str) -> bool {
    name.len() == 12
        && name.as_bytes().get(4) == Some(&b':')
        && name.as_bytes().get(10) == Some(&b'.')
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    fs::write(file, text).map_err(|error| about(file, &error))
}

fn about(file: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupt_counts() {
        assert_eq!(
            count(" 24:   5   7  IR-PCI-MSIX-0000:00:04.0  0-edge  vfio-msix[0](0000:00:04.0)"),
            12
        );
        assert_eq!(count(""), 0);
        assert_eq!(count("NMI: x"), 0);
    }

    #[test]
    fn addresses() {
        assert!(is_address("0000:00:04.0"));
        for other in ["pci_bus", "0000:00", "power", "0000:00:04:pcie001"] {
            assert!(!is_address(other), "{other}");
        }
    }
}

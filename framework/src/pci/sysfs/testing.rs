//! A made-up machine: folders and files as the kernel would show them, for tests of whatever reads
//! sysfs. [`FakeKernel`] acts on what is written to them.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Roots;
use super::bind::{Kernel, VFIO_PCI};
use crate::pci::Address;

/// A function to make up.
#[derive(Debug, Clone, Copy)]
pub struct FakeFunction {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class code.
    pub class: u32,
    /// The driver that is bound.
    pub driver: Option<&'static str>,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// Its NUMA node, or -1.
    pub numa_node: i32,
}

impl FakeFunction {
    /// An NVMe controller with the kernel's driver.
    #[must_use]
    pub fn nvme(group: u32) -> Self {
        let (vendor, device, class) = (0x1b36, 0x0010, 0x01_0802);
        Self { vendor, device, class, driver: Some("nvme"), group: Some(group), numa_node: -1 }
    }
}

/// A machine below a temporary folder.
#[derive(Debug)]
pub struct FakeMachine {
    folder: tempfile::TempDir,
    roots: Roots,
}

impl FakeMachine {
    /// A machine with the drivers nvme and vfio-pci, an IOMMU, and nothing else.
    ///
    /// # Errors
    /// If the files cannot be made; so for every function here.
    pub fn new() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let machine = Self { roots: Roots::under(folder.path()), folder };
        for driver in ["nvme", VFIO_PCI] {
            machine.driver(driver)?;
        }
        machine.write("sys/bus/pci/drivers_probe", "")?;
        machine.write("proc/self/mountinfo", "1 0 0:20 / / rw - ext4 /dev/vda1 rw\n")?;
        machine.write("proc/swaps", "Filename Type Size Used Priority\n")?;
        fs::create_dir_all(&machine.roots.dev)?;
        Ok(machine)
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The same for what reads it.
    #[must_use]
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// A file with this text.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn write(&self, path: impl AsRef<Path>, text: &str) -> io::Result<()> {
        let path = self.folder.path().join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text)
    }

    fn link(&self, path: impl AsRef<Path>, to: &Path) -> io::Result<()> {
        let path = self.folder.path().join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let _ = fs::remove_file(&path);
        symlink(to, path)
    }

    /// A driver.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn driver(&self, name: &str) -> io::Result<()> {
        let folder = format!("sys/bus/pci/drivers/{name}");
        ["bind", "unbind"].iter().try_for_each(|file| self.write(format!("{folder}/{file}"), ""))
    }

    /// A function; returns its folder.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn function(&self, address: Address, function: &FakeFunction) -> io::Result<PathBuf> {
        let folder = self.roots.sys.join(format!("devices/pci0000:00/{address}"));
        let texts = [
            ("vendor", format!("{:#06x}\n", function.vendor)),
            ("device", format!("{:#06x}\n", function.device)),
            ("class", format!("{:#08x}\n", function.class)),
            ("subsystem_vendor", "0x1af4\n".to_owned()),
            ("subsystem_device", "0x1100\n".to_owned()),
            ("driver_override", "(null)\n".to_owned()),
            ("numa_node", format!("{}\n", function.numa_node)),
            ("resource", "0x00000000feb00000 0x00000000feb03fff 0x0000000000140204\n".to_owned()),
        ];
        for (file, text) in texts {
            self.write(folder.join(file), &text)?;
        }
        self.link(self.roots.function(address), &folder)?;
        if let Some(group) = function.group {
            let group = self.roots.sys.join(format!("kernel/iommu_groups/{group}"));
            self.write(group.join("type"), "DMA-FQ\n")?;
            self.link(group.join(format!("devices/{address}")), &folder)?;
            self.link(folder.join("iommu_group"), &group)?;
        }
        self.set_driver(address, function.driver)?;
        Ok(folder)
    }

    /// A virtual function of another; `group` is its own.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn virtual_function(
        &self,
        physical: Address,
        index: u32,
        address: Address,
        group: u32,
    ) -> io::Result<PathBuf> {
        let folder =
            self.function(address, &FakeFunction { driver: None, ..FakeFunction::nvme(group) })?;
        let above = self.roots.function(physical);
        self.write(above.join("sriov_totalvfs"), "8\n")?;
        self.write(above.join("sriov_numvfs"), &format!("{}\n", index + 1))?;
        self.link(above.join(format!("virtfn{index}")), &folder)?;
        self.link(folder.join("physfn"), &above)?;
        Ok(folder)
    }

    /// Binds a driver, or none, as the kernel shows it afterwards.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn set_driver(&self, address: Address, driver: Option<&str>) -> io::Result<()> {
        let link = self.roots.function(address).join("driver");
        let _ = fs::remove_file(&link);
        match driver {
            None => Ok(()),
            Some(driver) => {
                self.driver(driver)?;
                self.link(&link, &self.roots.sys.join("bus/pci/drivers").join(driver))
            }
        }
    }

    /// A block device in this folder of sysfs: its number in sysfs, its link in `class/block`, and
    /// a file in `/dev`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn block(&self, folder: &Path, name: &str, number: &str) -> io::Result<PathBuf> {
        let folder = folder.join(name);
        self.write(folder.join("dev"), &format!("{number}\n"))?;
        self.link(folder.join("subsystem"), &self.roots.sys.join("class/block"))?;
        self.link(self.roots.sys.join("class/block").join(name), &folder)?;
        fs::create_dir_all(folder.join("holders"))?;
        self.node(name)?;
        Ok(folder)
    }

    /// A partition of a block device.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn partition(&self, disk: &Path, name: &str, number: &str) -> io::Result<PathBuf> {
        let folder = self.block(disk, name, number)?;
        self.write(folder.join("partition"), "1\n")?;
        Ok(folder)
    }

    /// A block device that lies upon another, such as `dm-0`; `files` go into its folder.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn holder(
        &self,
        lower: &Path,
        name: &str,
        number: &str,
        files: &[(&str, &str)],
    ) -> io::Result<PathBuf> {
        let folder = self.block(&self.roots.sys.join("devices/virtual/block"), name, number)?;
        for (file, text) in files {
            self.write(folder.join(file), text)?;
        }
        self.link(lower.join("holders").join(name), &folder)?;
        Ok(folder)
    }

    /// One more mount.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn mount(&self, number: &str, at: &str, kind: &str, source: &str) -> io::Result<()> {
        let path = self.roots.proc.join("self/mountinfo");
        let table = fs::read_to_string(&path)?;
        fs::write(path, format!("{table}2 1 {number} / {at} rw shared:2 - {kind} {source} rw\n"))
    }

    /// A file below `/dev`, which stands for a node.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn node(&self, name: &str) -> io::Result<()> {
        self.write(self.roots.dev.join(name), "")
    }

    /// A process with open files.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn process(&self, pid: u32, program: &str, files: &[&str]) -> io::Result<()> {
        let folder = self.roots.proc.join(pid.to_string());
        self.write(folder.join("comm"), &format!("{program}\n"))?;
        for (number, file) in files.iter().enumerate() {
            self.link(folder.join(format!("fd/{number}")), Path::new(file))?;
        }
        Ok(())
    }
}

/// Acts on writes to a [`FakeMachine`] as the kernel would.
#[derive(Debug)]
pub struct FakeKernel<'a> {
    /// The machine.
    pub machine: &'a FakeMachine,
    /// The driver that takes a function whose override is not set.
    pub native: Option<&'static str>,
    /// Writes to a file whose path ends so fail.
    pub fails: Option<&'static str>,
    /// A driver that refuses every function.
    pub refuses: Option<&'static str>,
    /// What was written, in order: the file's name and the text.
    pub written: Vec<(String, String)>,
}

impl<'a> FakeKernel<'a> {
    /// One in which everything works, and `nvme` takes what is free.
    #[must_use]
    pub fn new(machine: &'a FakeMachine) -> Self {
        Self { machine, native: Some("nvme"), fails: None, refuses: None, written: Vec::new() }
    }

    fn probe(&self, address: Address, driver: Option<&str>) -> io::Result<()> {
        let driver = driver.filter(|driver| self.refuses != Some(*driver));
        self.machine.set_driver(address, driver)
    }
}

impl Kernel for FakeKernel<'_> {
    fn write(&mut self, path: &Path, text: &str) -> io::Result<()> {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.written.push((file.clone(), text.to_owned()));
        if self.fails.is_some_and(|end| path.ends_with(end)) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let address = || text.parse::<Address>().map_err(|_| invalid());
        match file.as_str() {
            "driver_override" => fs::write(path, if text.is_empty() { "(null)" } else { text }),
            "unbind" => self.machine.set_driver(address()?, None),
            "bind" => {
                let driver = path.parent().and_then(Path::file_name).ok_or_else(invalid)?;
                let driver = driver.to_string_lossy().into_owned();
                self.probe(address()?, Some(&driver))
            }
            "drivers_probe" => {
                let address = address()?;
                let folder = self.machine.roots().function(address);
                if folder.join("driver").exists() {
                    return Ok(());
                }
                let only = fs::read_to_string(folder.join("driver_override"))?;
                let only = Some(only.trim().to_owned()).filter(|only| only != "(null)");
                self.probe(address, only.as_deref().or(self.native))
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

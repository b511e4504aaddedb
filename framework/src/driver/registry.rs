//! Which drivers and software models a program has.
//!
//! ```ignore
//! let registry = Registry::new().driver::<Nvme>().model("nvme", doorbell_nvme::soft::model);
//! ```
#![forbid(unsafe_code)]

#[cfg(feature = "soft")]
use std::collections::BTreeMap;
use std::sync::Arc;

#[cfg(feature = "soft")]
use crate::bus::SoftBus;
#[cfg(feature = "vfio-user")]
use crate::bus::VfioUserBus;
use crate::bus::{Bus, BusError, Device, Identity};
#[cfg(feature = "soft")]
use crate::soft::{HarnessOptions, SoftDevice};
use crate::spec::DeviceSpec;

use super::erased::{DynDriver, Erased, LocalFuture};
use super::{DeviceMatch, Driver, DriverError};

/// Makes a software model from the options of its [`DeviceSpec`]. The error is one line.
#[cfg(feature = "soft")]
pub type ModelFn = fn(&[(String, String)]) -> Result<Box<dyn SoftDevice>, String>;

type Probe = fn(Device) -> LocalFuture<'static, Result<Box<dyn DynDriver>, DriverError>>;

/// A driver in the registry.
#[derive(Debug, Clone, Copy)]
pub struct DriverEntry {
    /// [`Driver::NAME`].
    pub name: &'static str,
    /// [`Driver::IDS`].
    pub ids: &'static [DeviceMatch],
    /// [`Driver::ADDRESS_BITS`].
    pub address_bits: u32,
    probe: Probe,
}

impl DriverEntry {
    /// Resets the device and brings it up. Call it on the thread that is to run the driver.
    ///
    /// # Errors
    /// As [`Driver::probe`].
    pub async fn probe(&self, device: Device) -> Result<Box<dyn DynDriver>, DriverError> {
        (self.probe)(device).await
    }
}

/// A device cannot be opened, or nothing drives it.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// This program was built without the bus.
    #[error("device {device}: this build has no bus {bus}; it has: {available}")]
    NoBus {
        /// The device as it was named.
        device: String,
        /// The bus that it needs.
        bus: &'static str,
        /// The buses that there are.
        available: String,
    },
    /// No such software model.
    #[error("device {device}: no software model '{model}'; this program has: {available}")]
    NoModel {
        /// The device as it was named.
        device: String,
        /// The model that was named.
        model: String,
        /// The models that there are.
        available: String,
    },
    /// The model refused its options.
    #[error("device {device}: {why}")]
    BadOptions {
        /// The device as it was named.
        device: String,
        /// What the model said.
        why: String,
    },
    /// No driver's ids match.
    #[error(
        "device {device}: no driver for vendor {vendor:#06x}, device {id:#06x}, class {class:#08x}; \
         this program has: {available}"
    )]
    NoDriver {
        /// The device.
        device: String,
        /// Its vendor id.
        vendor: u16,
        /// Its device id.
        id: u16,
        /// Its class code.
        class: u32,
        /// The drivers that there are, with what they match.
        available: String,
    },
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// The drivers and models that a program was built with. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    drivers: Vec<DriverEntry>,
    #[cfg(feature = "soft")]
    models: BTreeMap<&'static str, ModelFn>,
}

impl Registry {
    /// No drivers yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a driver. Of two drivers that match a device, the one added first gets it.
    #[must_use]
    pub fn driver<D: Driver>(mut self) -> Self {
        self.drivers.push(DriverEntry {
            name: D::NAME,
            ids: D::IDS,
            address_bits: D::ADDRESS_BITS,
            probe: |device| {
                Box::pin(async move {
                    let driver = D::probe(device).await?;
                    Ok(Box::new(Erased(driver)) as Box<dyn DynDriver>)
                })
            },
        });
        self
    }

    /// Adds a software model: what `soft:NAME` means.
    #[cfg(feature = "soft")]
    #[must_use]
    pub fn model(mut self, name: &'static str, make: ModelFn) -> Self {
        self.models.insert(name, make);
        self
    }

    /// Adds everything of another registry, after what is there.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.drivers.extend(other.drivers);
        #[cfg(feature = "soft")]
        self.models.extend(other.models);
        self
    }

    /// The drivers, in the order in which they were added.
    #[must_use]
    pub fn drivers(&self) -> &[DriverEntry] {
        &self.drivers
    }

    /// The driver for a device.
    ///
    /// # Errors
    /// [`RegistryError::NoDriver`] lists what there is.
    pub fn find(&self, identity: &Identity) -> Result<&DriverEntry, RegistryError> {
        let matches = |entry: &&DriverEntry| entry.ids.iter().any(|id| id.matches(identity));
        self.drivers.iter().find(matches).ok_or_else(|| RegistryError::NoDriver {
            device: identity.name.to_string(),
            vendor: identity.vendor,
            id: identity.device,
            class: identity.class,
            available: list(self.drivers.iter().map(|entry| {
                let ids: Vec<_> = entry.ids.iter().map(ToString::to_string).collect();
                format!("{} ({})", entry.name, ids.join(", "))
            })),
        })
    }

    /// Opens the bus that reaches a device.
    ///
    /// # Errors
    /// [`RegistryError`]: the bus or the model is not in this build, or it failed.
    pub fn open_bus(&self, spec: &DeviceSpec) -> Result<Arc<dyn Bus>, RegistryError> {
        match spec {
            #[cfg(feature = "soft")]
            DeviceSpec::Soft { model, .. } => self.open_soft(spec, model),
            #[cfg(not(feature = "soft"))]
            DeviceSpec::Soft { .. } => Err(no_bus(spec, "soft")),
            #[cfg(feature = "vfio")]
            DeviceSpec::Pci { address, options } => {
                Ok(Arc::new(crate::bus::VfioBus::open(*address, options)?))
            }
            #[cfg(not(feature = "vfio"))]
            DeviceSpec::Pci { .. } => Err(no_bus(spec, "vfio")),
            #[cfg(feature = "vfio-user")]
            DeviceSpec::VfioUser(path) => Ok(Arc::new(VfioUserBus::open_spec(path)?)),
            #[cfg(not(feature = "vfio-user"))]
            DeviceSpec::VfioUser(_) => Err(no_bus(spec, "vfio-user")),
        }
    }
}

/// The buses of this build.
const BUSES: &[(&str, bool)] = &[
    ("soft", cfg!(feature = "soft")),
    ("vfio", cfg!(feature = "vfio")),
    ("vfio-user", cfg!(feature = "vfio-user")),
];

fn no_bus(spec: &DeviceSpec, bus: &'static str) -> RegistryError {
    let built = BUSES.iter().filter(|(_, built)| *built).map(|(name, _)| (*name).to_owned());
    RegistryError::NoBus { device: spec.to_string(), bus, available: list(built) }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

#[cfg(feature = "soft")]
impl Registry {
    /// Makes the software device that a spec names, without a bus: to be served to others.
    ///
    /// # Errors
    /// [`RegistryError::NoModel`], [`RegistryError::BadOptions`]; [`RegistryError::NoBus`] for a spec
    /// that names no software device.
    pub fn open_model(&self, spec: &DeviceSpec) -> Result<Box<dyn SoftDevice>, RegistryError> {
        let DeviceSpec::Soft { model, options } = spec else { return Err(no_bus(spec, "soft")) };
        let Some(make) = self.models.get(model.as_str()) else {
            return Err(RegistryError::NoModel {
                device: spec.to_string(),
                model: model.to_owned(),
                available: list(self.models.keys().map(|name| (*name).to_owned())),
            });
        };
        make(options).map_err(|why| RegistryError::BadOptions { device: spec.to_string(), why })
    }

    fn open_soft(&self, spec: &DeviceSpec, model: &str) -> Result<Arc<dyn Bus>, RegistryError> {
        let device = self.open_model(spec)?;
        let name: Arc<str> = format!("soft:{model}").into();
        let options = HarnessOptions { name, ..HarnessOptions::default() };
        Ok(Arc::new(SoftBus::start(device, options)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{DeviceEvent, Recovered};
    use crate::deadline::Deadline;
    use crate::driver::{Scope, Who};

    struct Nothing;

    impl Driver for Nothing {
        const NAME: &'static str = "nothing";
        const IDS: &'static [DeviceMatch] = &[
            DeviceMatch { vendor: Some(0x1234), device: Some(0x11e8), class: None },
            DeviceMatch { vendor: None, device: None, class: Some(0x01_0802) },
        ];
        type Admin = u8;
        type Reply = u16;

        async fn probe(_device: Device) -> Result<Self, DriverError> {
            Ok(Self)
        }
        async fn admin(&self, _who: &Who, operation: u8) -> Result<u16, DriverError> {
            Ok(u16::from(operation) + 1)
        }
        async fn event(&self, _event: DeviceEvent) {}
        async fn recover(&self, _: Scope, _: Deadline) -> Result<Recovered, DriverError> {
            Ok(Recovered::by_reset())
        }
        async fn shutdown(&self, _deadline: Deadline) -> Result<(), DriverError> {
            Ok(())
        }
    }

    fn identity(vendor: u16, device: u16, class: u32) -> Identity {
        Identity { name: "0000:01:00.0".into(), vendor, device, class, numa_node: None }
    }

    #[test]
    fn drivers_are_found_by_id_or_class() {
        let registry = Registry::new().driver::<Nothing>();
        for id in [identity(0x1234, 0x11e8, 0), identity(7, 7, 0x01_0802)] {
            assert_eq!(registry.find(&id).unwrap().name, "nothing");
        }
        let error = registry.find(&identity(0x1234, 1, 0x02_0000)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "device 0000:01:00.0: no driver for vendor 0x1234, device 0x0001, class 0x020000; \
             this program has: nothing (1234:11e8, *:* class 010802)"
        );
        let error = Registry::new().find(&identity(1, 1, 1)).unwrap_err();
        assert!(error.to_string().ends_with("this program has: none"), "{error}");
    }

    #[test]
    fn operations_pass_as_bytes() {
        let who = Who { pid: 1, uid: 1, gid: 1, operator: false, queues: Vec::new() };
        let driver: Box<dyn DynDriver> = Box::new(Erased(Nothing));
        let admin = |bytes: &[u8]| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(driver.admin(&who, bytes))
        };
        assert_eq!(admin(&[255]).unwrap(), postcard::to_stdvec(&256u16).unwrap());
        for bytes in [&[][..], &[1, 2]] {
            let error = admin(bytes).unwrap_err();
            assert!(error.to_string().contains("same version"), "{error}");
        }
    }
}

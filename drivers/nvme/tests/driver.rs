//! The driver alone on a bus: bring-up, limits, and a controller that does not come up.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

use std::sync::Arc;

use doorbell::bus::{Bus, Device};
use doorbell::deadline::Deadline;
use doorbell::driver::{
    Driver, DriverError, QueueMemory, QueueRequest, QueueShadow, Scope, ShadowWords, Who,
};
use doorbell::tier::Tier;
use doorbell_nvme::{NvmeAdmin, NvmeDriver, NvmeReply};
use std::sync::atomic::Ordering;
use std::time::Duration;

fn bus(options: &str) -> Arc<dyn Bus> {
    doorbell_nvme::registry().open_bus(&format!("soft:nvme,{options}").parse().unwrap()).unwrap()
}

fn with_driver(options: &str, test: impl AsyncFnOnce(Device, Result<NvmeDriver, DriverError>)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (device, _) = Device::attach(bus(options), 64).unwrap();
        let driver = NvmeDriver::probe(device.clone()).await;
        test(device, driver).await;
    });
}

fn anyone() -> Who {
    Who { pid: 1, uid: 1000, gid: 1000, operator: false, queues: vec![] }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

#[test]
fn it_comes_up_and_says_what_it_is() {
    with_driver("ram=1M,null=2M,queues=3,depth=64,mdts=2,dstrd=1,lba=4096", async |_, driver| {
        let driver = driver.unwrap();
        let plan = driver.plan();
        assert_eq!((plan.queues, plan.max_entries), (3, 64));
        assert_eq!((plan.submission_entry, plan.completion_entry), (64, 16));
        let info = driver.admin(&anyone(), NvmeAdmin::Info { after: 0 }).await.unwrap();
        let NvmeReply::Info { controller, namespaces, more } = info else { panic!("{info:?}") };
        assert_eq!((controller.page_size, controller.max_transfer), (4096, Some(16 << 10)));
        assert_eq!((controller.doorbell_stride, controller.queues), (8, 3));
        assert!(controller.commands.compare && controller.commands.write_zeroes);
        let shapes: Vec<_> =
            namespaces.iter().map(|ns| (ns.nsid, ns.blocks, ns.block_shift)).collect();
        assert_eq!(shapes, [(1, 256, 12), (2, 512, 12)]);
        assert!(!more);
        driver.shutdown(soon()).await.unwrap();
    });
}

#[test]
fn a_controller_that_never_becomes_ready_is_given_up_in_time() {
    with_driver("ram=1M,fault=never-ready", async |_, driver| {
        let error = driver.unwrap_err();
        assert!(matches!(error, DriverError::TimedOut(_)), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("CSTS.RDY = 1 after CC.EN = 1") && text.contains("soft:nvme"),
            "{text}"
        );
    });
}

#[test]
fn a_controller_that_is_gone_is_said_to_be() {
    with_driver("ram=1M,fault=all-ones", async |_, driver| {
        let error = driver.unwrap_err();
        assert!(error.to_string().contains("all ones"), "{error}");
    });
}

#[test]
fn a_controller_that_fails_at_once_is_said_to() {
    with_driver("ram=1M,fault=fatal", async |_, driver| {
        let error = driver.unwrap_err();
        assert!(error.to_string().contains("CSTS.CFS"), "{error}");
    });
}

#[test]
fn queues_that_cannot_be_are_refused_before_the_controller() {
    with_driver("ram=1M,queues=2,depth=16", async |device, driver| {
        let driver = driver.unwrap();
        let ring = device.alloc_shared(8192).unwrap();
        let memory = QueueMemory { submission: ring.iova(), completion: ring.iova() + 4096 };
        let request = |entries| QueueRequest { entries, at_least: Tier::Cooperative };
        for (id, entries, says) in
            [(0, 16, "1 to 2"), (3, 16, "1 to 2"), (1, 1, "2 to 16"), (1, 17, "2 to 16")]
        {
            let error = driver.create_queue(id, &request(entries), memory).await.unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        let odd = QueueMemory { submission: ring.iova() + 64, ..memory };
        assert!(driver.create_queue(1, &request(16), odd).await.is_err());
        let grant = driver.create_queue(2, &request(16), memory).await.unwrap();
        assert_eq!((grant.region, grant.vector), (0, 2));
        let twice = driver.create_queue(2, &request(16), memory).await.unwrap_err();
        assert!(twice.to_string().contains("exists already"), "{twice}");
        // After a reset none of them exists.
        driver.recover(Scope::Device, soon()).await.unwrap();
        driver.create_queue(2, &request(16), memory).await.unwrap();
        driver.shutdown(soon()).await.unwrap();
    });
}

#[test]
fn shadow_doorbells_lie_as_the_registers_do_and_begin_at_zero() {
    with_driver("ram=1M,queues=3,dstrd=1,dbbuf=1", async |device, driver| {
        let driver = driver.unwrap();
        let ring = device.alloc_shared(8192).unwrap();
        let memory = QueueMemory { submission: ring.iova(), completion: ring.iova() + 4096 };
        let request = QueueRequest { entries: 16, at_least: Tier::Cooperative };
        let word = |shadow: &QueueShadow, at: u64| {
            shadow.memory.memory().load_u32(at as usize, Ordering::Relaxed).unwrap()
        };
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let grant = driver.create_queue(2, &request, memory).await.unwrap();
            let shadow = grant.shadow.expect("the controller offers them");
            // A stride of 8 bytes: queue 2 has doorbells 4 and 5.
            assert_eq!(shadow.submission, ShadowWords { value: 32, event: 4096 + 32 });
            assert_eq!(shadow.completion, ShadowWords { value: 40, event: 4096 + 40 });
            assert_eq!(grant.submission_doorbell, 0x1000 + shadow.submission.value);
            assert_eq!((word(&shadow, 32), word(&shadow, 40)), (0, 0));
            // The controller polls: right behind the doorbell, at the ring's end.
            assert_eq!((word(&shadow, 4096 + 32), word(&shadow, 4096 + 40)), (15, 15));
            seen.insert(shadow.memory.iova());
            shadow.memory.memory().fill(0, 8192, 0xee).unwrap();
            driver.recover(Scope::Device, soon()).await.unwrap();
            // Nobody looks there any more, and the device cannot.
            assert_eq!(word(&shadow, 4096 + 32), 0xeeee_eeee);
        }
        // New pages after each reset, and the old ones given back.
        assert!(seen.len() <= 2, "{seen:x?}");
        driver.shutdown(soon()).await.unwrap();
    });
}

#[test]
fn what_changes_the_device_is_for_operators() {
    with_driver("ram=1M", async |_, driver| {
        let driver = driver.unwrap();
        for operation in [
            NvmeAdmin::Format { nsid: 1, lbaf: 0 },
            NvmeAdmin::Identify { cns: 0x13, nsid: 0 },
            NvmeAdmin::LogPage { lid: 0x70, nsid: 0, offset: 0, len: 512 },
        ] {
            let error = driver.admin(&anyone(), operation).await.unwrap_err();
            assert!(matches!(error, DriverError::Refused(_)), "{error}");
        }
        let smart = driver.admin(&anyone(), NvmeAdmin::Smart).await.unwrap();
        assert!(matches!(smart, NvmeReply::Smart(_)));
        let log = NvmeAdmin::LogPage { lid: 2, nsid: u32::MAX, offset: 0, len: 512 };
        let NvmeReply::Bytes(bytes) = driver.admin(&anyone(), log).await.unwrap() else { panic!() };
        assert_eq!(bytes.len(), 512);
        for (offset, len) in [(0, 0), (0, 4100), (0, 5), (2, 4)] {
            let log = NvmeAdmin::LogPage { lid: 2, nsid: u32::MAX, offset, len };
            assert!(matches!(driver.admin(&anyone(), log).await, Err(DriverError::Refused(_))));
        }
        let NvmeReply::Bytes(bytes) =
            driver.admin(&anyone(), NvmeAdmin::Identify { cns: 1, nsid: 0 }).await.unwrap()
        else {
            panic!()
        };
        assert_eq!(bytes.len(), 4096);
        let feature = NvmeAdmin::GetFeature { fid: 7, select: 0, nsid: 0, cdw11: 0 };
        let NvmeReply::Feature { value, .. } = driver.admin(&anyone(), feature).await.unwrap()
        else {
            panic!()
        };
        assert_ne!(value, 0);
        let errors = driver.admin(&anyone(), NvmeAdmin::ErrorLog { entries: 8 }).await.unwrap();
        assert!(matches!(errors, NvmeReply::Errors(_)));
        driver.shutdown(soon()).await.unwrap();
    });
}

#[test]
fn a_format_changes_the_blocks_and_needs_the_device_to_itself() {
    with_driver("ram=1M", async |device, driver| {
        let driver = driver.unwrap();
        let operator = Who { operator: true, ..anyone() };
        let shape = async || {
            let info = driver.admin(&anyone(), NvmeAdmin::Info { after: 0 }).await.unwrap();
            let NvmeReply::Info { namespaces, .. } = info else { panic!() };
            (namespaces[0].block_shift, namespaces[0].blocks, namespaces[0].formats.clone())
        };
        let (shift, blocks, formats) = shape().await;
        assert_eq!((shift, blocks), (9, 2048));
        let lbaf = formats.iter().position(|format| format.block_shift == 12).unwrap() as u8;
        let ring = device.alloc_shared(8192).unwrap();
        let memory = QueueMemory { submission: ring.iova(), completion: ring.iova() + 4096 };
        let request = QueueRequest { entries: 16, at_least: Tier::Cooperative };
        driver.create_queue(1, &request, memory).await.unwrap();
        let format = NvmeAdmin::Format { nsid: 1, lbaf };
        let refused = driver.admin(&operator, format.clone()).await.unwrap_err();
        assert!(refused.to_string().contains("no I/O queue exists"), "{refused}");
        driver.recover(Scope::Device, soon()).await.unwrap();
        driver.admin(&operator, format).await.unwrap();
        let (shift, blocks, _) = shape().await;
        assert_eq!((shift, blocks), (12, 256));
        let bad =
            driver.admin(&operator, NvmeAdmin::Format { nsid: 1, lbaf: 15 }).await.unwrap_err();
        assert!(bad.to_string().contains("Invalid Format"), "{bad}");
        driver.shutdown(soon()).await.unwrap();
    });
}

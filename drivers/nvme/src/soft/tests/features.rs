//! Get Features and Set Features.

use super::*;
use crate::spec::event::{kind, smart};
use crate::spec::feature::{AsyncEventConfig, Features10, TemperatureThreshold};
use crate::spec::{AsyncEvent, FeatureId, FeatureSelect, LogId, NSID_ALL};

fn bench() -> Bench {
    Bench::new(SoftNvme::builder().ram(1 << 20).ram(1 << 20).queues(4))
}

fn get(fid: FeatureId, select: FeatureSelect, cdw11: u32) -> Sqe {
    let cdw10 = Features10(0).with_fid(fid.0).with_sel(select.0).0;
    Sqe { cdw10, cdw11, ..Sqe::admin(AdminOpcode::GET_FEATURES) }
}

fn set(fid: FeatureId, cdw11: u32) -> Sqe {
    let cdw10 = Features10(0).with_fid(fid.0).0;
    Sqe { cdw10, cdw11, ..Sqe::admin(AdminOpcode::SET_FEATURES) }
}

const CURRENT: FeatureSelect = FeatureSelect::CURRENT;

#[test]
fn mandatory_features_can_be_set_and_read_back_and_defaults_stay() {
    let mut bench = bench();
    for (fid, value) in [
        (FeatureId::ARBITRATION, 0x0102_0303),
        (FeatureId::POWER_MANAGEMENT, 0x20),
        (FeatureId::TEMPERATURE_THRESHOLD, 400),
        (FeatureId::INTERRUPT_COALESCING, 0x0a07),
        (FeatureId::WRITE_ATOMICITY, 1),
        (FeatureId::ASYNC_EVENT_CONFIG, 0x1ff),
    ] {
        let before = bench.admin(get(fid, CURRENT, 0)).dw0;
        assert_eq!(bench.admin(set(fid, value)).status(), Status::SUCCESS, "{fid:?}");
        assert_eq!(bench.admin(get(fid, CURRENT, 0)).dw0, value, "{fid:?}");
        for select in [FeatureSelect::DEFAULT, FeatureSelect::SAVED] {
            assert_eq!(bench.admin(get(fid, select, 0)).dw0, before, "{fid:?}");
        }
        assert_eq!(bench.admin(get(fid, FeatureSelect::SUPPORTED, 0)).dw0, 0b100);
    }
    // A controller reset brings the defaults back.
    bench.write32(offset::CC, CC.with_en(false).0);
    bench.settle();
    bench.admin = bench.pair(0, 32);
    bench.enable(CC);
    assert_eq!(bench.admin(get(FeatureId::WRITE_ATOMICITY, CURRENT, 0)).dw0, 0);
}

#[test]
fn features_with_a_selector() {
    let mut bench = bench();
    let over = TemperatureThreshold(0).with_tmpth(350);
    let under = TemperatureThreshold(0).with_tmpth(250).with_thsel(1);
    let id = FeatureId::TEMPERATURE_THRESHOLD;
    for value in [over, under] {
        assert_eq!(bench.admin(set(id, value.0)).status(), Status::SUCCESS);
    }
    assert_eq!(bench.admin(get(id, CURRENT, over.0)).dw0, 350);
    assert_eq!(bench.admin(get(id, CURRENT, under.0)).dw0, 250);
    for bad in [over.with_tmpsel(1), over.with_thsel(2)] {
        bench.admin_refuses(get(id, CURRENT, bad.0), Status::INVALID_FIELD.dnr());
        bench.admin_refuses(set(id, bad.0), Status::INVALID_FIELD.dnr());
    }
    let id = FeatureId::INTERRUPT_VECTOR_CONFIG;
    assert_eq!(bench.admin(set(id, 1 << 16 | 4)).status(), Status::SUCCESS);
    assert_eq!(bench.admin(get(id, CURRENT, 4)).dw0, 1 << 16 | 4);
    assert_eq!(bench.admin(get(id, CURRENT, 3)).dw0, 3);
    bench.admin_refuses(set(id, 5), Status::INVALID_FIELD.dnr());
    bench.admin_refuses(get(id, CURRENT, 5), Status::INVALID_FIELD.dnr());
}

#[test]
fn error_recovery_is_per_namespace() {
    let mut bench = bench();
    let id = FeatureId::ERROR_RECOVERY;
    let on = |nsid, sqe| Sqe { nsid, ..sqe };
    assert_eq!(bench.admin(on(2, set(id, 7))).status(), Status::SUCCESS);
    assert_eq!(bench.admin(on(1, get(id, CURRENT, 0))).dw0, 0);
    assert_eq!(bench.admin(on(2, get(id, CURRENT, 0))).dw0, 7);
    assert_eq!(bench.admin(on(NSID_ALL, set(id, 9))).status(), Status::SUCCESS);
    assert_eq!(bench.admin(on(1, get(id, CURRENT, 0))).dw0, 9);
    assert_eq!(bench.admin(get(id, FeatureSelect::SUPPORTED, 0)).dw0, 0b110);
    for nsid in [0, 3] {
        bench.admin_refuses(on(nsid, set(id, 1)), Status::INVALID_NAMESPACE.dnr());
        bench.admin_refuses(on(nsid, get(id, CURRENT, 0)), Status::INVALID_NAMESPACE.dnr());
    }
    // Deallocated Block errors are not supported.
    bench.admin_refuses(on(1, set(id, 1 << 16)), Status::INVALID_FIELD.dnr());
}

#[test]
fn what_cannot_be_set() {
    let mut bench = bench();
    let field = Status::INVALID_FIELD.dnr();
    // The volatile write cache is no feature where there is none.
    for fid in [0x00, 0x03, 0x06, 0x0c, 0x0d, 0x0f, 0x10, 0x19, 0x7f, 0x84, 0xc0] {
        bench.admin_refuses(set(FeatureId(fid), 0), field);
        bench.admin_refuses(get(FeatureId(fid), CURRENT, 0), field);
    }
    bench.admin_refuses(get(FeatureId::ARBITRATION, FeatureSelect(4), 0), field);
    bench.admin_refuses(set(FeatureId::POWER_MANAGEMENT, 1), field);
    let mut save = set(FeatureId::ARBITRATION, 0);
    save.cdw10 |= 1 << 31;
    bench.admin_refuses(save, Status::FEATURE_NOT_SAVEABLE.dnr());
    let narrow = Sqe { nsid: 1, ..set(FeatureId::ARBITRATION, 0) };
    bench.admin_refuses(narrow, Status::FEATURE_NOT_NAMESPACE_SPECIFIC.dnr());
    let all = Sqe { nsid: NSID_ALL, ..narrow };
    assert_eq!(bench.admin(all).status(), Status::SUCCESS);
}

#[test]
fn a_temperature_threshold_raises_an_event() {
    let mut bench = bench();
    bench.submit_admin(Sqe::admin(AdminOpcode::ASYNC_EVENT_REQUEST));
    let config = AsyncEventConfig(0).with_smart(0b10);
    assert_eq!(bench.admin(set(FeatureId::ASYNC_EVENT_CONFIG, config.0)).status(), Status::SUCCESS);
    bench.submit_admin(set(FeatureId::TEMPERATURE_THRESHOLD, 300));
    assert_eq!(bench.pop_admin().unwrap().status(), Status::SUCCESS);
    let event = AsyncEvent(bench.pop_admin().unwrap().dw0);
    assert_eq!((event.kind(), event.info()), (kind::SMART, smart::TEMPERATURE));
    assert_eq!(event.log_page(), LogId::SMART.0);
}

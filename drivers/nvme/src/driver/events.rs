//! Asynchronous events (base 2.0, 5.2): requests are kept outstanding; each event is logged, its log
//! page read (which lets the controller report that type again), and acted upon.

use std::rc::{Rc, Weak};
use std::time::Duration;

use doorbell::driver::rt;

use super::admin_queue::{AdminQueue, DATA};
use super::error::AdminError;
use super::state::Shared;
use super::{ADMIN_LIMIT, identify, logs};
use crate::spec::event::{error, kind, notice, smart};
use crate::spec::feature::{AsyncEventConfig, Features10};
use crate::spec::{AdminOpcode, AsyncEvent, FeatureId, LogId, Sqe};

/// Requests kept outstanding, where the controller takes as many.
const REQUESTS: usize = 4;

/// The least time between two events of one request, so that a controller that reports without end
/// does not keep the broker busy.
const PAUSE: Duration = Duration::from_millis(20);

/// Says which events the controller shall report (base 2.0, 5.27.1.8).
pub(super) async fn configure(
    admin: &AdminQueue,
    events: &identify::Events,
) -> Result<(), AdminError> {
    let config = AsyncEventConfig(0).with_smart(0xff).with_namespace(events.namespace);
    let sqe = Sqe {
        cdw10: Features10(0).with_fid(FeatureId::ASYNC_EVENT_CONFIG.0).0,
        cdw11: config.0,
        ..Sqe::admin(AdminOpcode::SET_FEATURES)
    };
    admin.run(sqe, ADMIN_LIMIT).await.map(drop)
}

/// Keeps requests outstanding until the tasks are dropped or the admin queue ends.
pub(super) fn watch(
    shared: &Rc<Shared>,
    admin: &Rc<AdminQueue>,
    events: &identify::Events,
) -> Vec<rt::Task> {
    let one = |_| {
        let (shared, admin) = (Rc::downgrade(shared), Rc::clone(admin));
        rt::spawn(async move { one_request(&shared, &admin).await })
    };
    (0..events.requests.min(REQUESTS)).map(one).collect()
}

async fn one_request(shared: &Weak<Shared>, admin: &AdminQueue) {
    loop {
        let event = match admin.wait_for_event().await {
            Ok(dw0) => AsyncEvent(dw0),
            Err(error) => {
                // The queue ended with a reset, or the controller takes fewer requests than it said.
                tracing::debug!(%error, "no more events are asked for");
                return;
            }
        };
        let Some(shared) = shared.upgrade() else { return };
        if let Err(error) = handle(&shared, admin, event).await {
            tracing::warn!(device = %shared.name(), ?event, %error, "handling an event failed");
        }
        drop(shared);
        rt::sleep(PAUSE).await;
    }
}

async fn handle(shared: &Shared, admin: &AdminQueue, event: AsyncEvent) -> Result<(), AdminError> {
    let device = shared.name();
    match event.kind() {
        kind::ERROR => {
            tracing::error!(%device, what = error_text(event.info()), "the controller reports an error");
            for entry in logs::errors(admin, 4, false).await? {
                tracing::error!(%device, ?entry, "error log");
            }
        }
        kind::SMART => {
            tracing::warn!(%device, what = smart_text(event.info()), "health event");
            let smart = logs::smart(admin, false).await?;
            tracing::warn!(%device, ?smart, "health");
        }
        kind::NOTICE if event.info() == notice::NAMESPACE_ATTRIBUTE_CHANGED => {
            read_off(admin, event).await?;
            tracing::info!(%device, "namespaces changed");
            shared.forget_namespaces();
            shared.refresh(admin).await;
        }
        other => {
            tracing::info!(%device, kind = other, info = event.info(), "event");
            read_off(admin, event).await?;
        }
    }
    Ok(())
}

/// Reads the event's log page, so that the controller may report the next one.
async fn read_off(admin: &AdminQueue, event: AsyncEvent) -> Result<(), AdminError> {
    let page = logs::Page::of_controller(LogId(event.log_page()), DATA, false);
    logs::read(admin, page).await.map(drop)
}

fn error_text(info: u8) -> &'static str {
    match info {
        error::INVALID_DOORBELL_REGISTER => "a doorbell of a queue that does not exist was written",
        error::INVALID_DOORBELL_VALUE => "an invalid value was written to a doorbell",
        error::DIAGNOSTIC_FAILURE => "a diagnostic failed",
        error::PERSISTENT_INTERNAL => "a persistent internal error",
        error::TRANSIENT_INTERNAL => "a transient internal error",
        error::FIRMWARE_LOAD => "a firmware image could not be loaded",
        _ => "unknown",
    }
}

fn smart_text(info: u8) -> &'static str {
    match info {
        smart::RELIABILITY => "the reliability is compromised",
        smart::TEMPERATURE => "a temperature crossed its threshold",
        smart::SPARE => "the spare capacity fell below its threshold",
        _ => "unknown",
    }
}

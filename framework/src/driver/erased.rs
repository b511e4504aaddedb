//! [`DynDriver`]: a [`Driver`] whose type is forgotten.
#![forbid(unsafe_code)]

use std::future::Future;
use std::pin::Pin;

use crate::bus::{DeviceEvent, QueueToken, Quiesced, Recovered};
use crate::deadline::Deadline;

use super::{
    Driver, DriverError, Plan, QueueGrant, QueueMemory, QueueRequest, Scope, VirtualResources, Who,
};

/// A future that stays on its device's worker thread.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A [`Driver`] whose type is forgotten: what the broker works with. Methods as there; operations
/// and replies of `admin` are postcard bytes.
pub trait DynDriver {
    /// [`Driver::NAME`].
    fn name(&self) -> &'static str;
    /// [`Driver::plan`].
    fn plan(&self) -> Plan;
    /// [`Driver::create_queue`].
    fn create_queue<'a>(
        &'a self,
        id: u16,
        request: &'a QueueRequest,
        memory: QueueMemory,
    ) -> LocalFuture<'a, Result<QueueGrant, DriverError>>;
    /// [`Driver::quiesce_queue`].
    fn quiesce_queue(
        &self,
        queue: QueueToken,
        deadline: Deadline,
    ) -> LocalFuture<'_, Result<Quiesced, (QueueToken, DriverError)>>;
    /// [`Driver::abort`].
    fn abort(
        &self,
        queue: u16,
        tag: u16,
        deadline: Deadline,
    ) -> LocalFuture<'_, Result<(), DriverError>>;
    /// [`Driver::admin`], decoded and encoded here.
    fn admin<'a>(
        &'a self,
        who: &'a Who,
        operation: &'a [u8],
    ) -> LocalFuture<'a, Result<Vec<u8>, DriverError>>;
    /// [`Driver::event`].
    fn event(&self, event: DeviceEvent) -> LocalFuture<'_, ()>;
    /// [`Driver::recover`].
    fn recover(
        &self,
        scope: Scope,
        deadline: Deadline,
    ) -> LocalFuture<'_, Result<Recovered, DriverError>>;
    /// [`Driver::prepare_virtual_function`].
    fn prepare_virtual_function(
        &self,
        index: u16,
        of: u16,
    ) -> LocalFuture<'_, Result<VirtualResources, DriverError>>;
    /// [`Driver::release_virtual_function`].
    fn release_virtual_function(&self, index: u16) -> LocalFuture<'_, Result<(), DriverError>>;
    /// [`Driver::shutdown`].
    fn shutdown(&self, deadline: Deadline) -> LocalFuture<'_, Result<(), DriverError>>;
}

pub(super) struct Erased<D>(pub(super) D);

impl<D: Driver> DynDriver for Erased<D> {
    fn name(&self) -> &'static str {
        D::NAME
    }

    fn plan(&self) -> Plan {
        self.0.plan()
    }

    fn create_queue<'a>(
        &'a self,
        id: u16,
        request: &'a QueueRequest,
        memory: QueueMemory,
    ) -> LocalFuture<'a, Result<QueueGrant, DriverError>> {
        Box::pin(self.0.create_queue(id, request, memory))
    }

    fn quiesce_queue(
        &self,
        queue: QueueToken,
        deadline: Deadline,
    ) -> LocalFuture<'_, Result<Quiesced, (QueueToken, DriverError)>> {
        Box::pin(self.0.quiesce_queue(queue, deadline))
    }

    fn abort(
        &self,
        queue: u16,
        tag: u16,
        deadline: Deadline,
    ) -> LocalFuture<'_, Result<(), DriverError>> {
        Box::pin(self.0.abort(queue, tag, deadline))
    }

    fn admin<'a>(
        &'a self,
        who: &'a Who,
        operation: &'a [u8],
    ) -> LocalFuture<'a, Result<Vec<u8>, DriverError>> {
        Box::pin(async move {
            let refused = |what: &str, error: postcard::Error| {
                DriverError::Refused(format!(
                    "{what} of the driver {} cannot be read ({error}); \
                     do client and broker have the same version of it?",
                    D::NAME
                ))
            };
            let operation = match postcard::take_from_bytes::<D::Admin>(operation) {
                Ok((operation, [])) => operation,
                Ok(_) => {
                    return Err(refused("an operation", postcard::Error::DeserializeBadEncoding));
                }
                Err(error) => return Err(refused("an operation", error)),
            };
            let reply = self.0.admin(who, operation).await?;
            postcard::to_stdvec(&reply).map_err(|error| refused("a reply", error))
        })
    }

    fn event(&self, event: DeviceEvent) -> LocalFuture<'_, ()> {
        Box::pin(self.0.event(event))
    }

    fn recover(
        &self,
        scope: Scope,
        deadline: Deadline,
    ) -> LocalFuture<'_, Result<Recovered, DriverError>> {
        Box::pin(self.0.recover(scope, deadline))
    }

    fn prepare_virtual_function(
        &self,
        index: u16,
        of: u16,
    ) -> LocalFuture<'_, Result<VirtualResources, DriverError>> {
        Box::pin(self.0.prepare_virtual_function(index, of))
    }

    fn release_virtual_function(&self, index: u16) -> LocalFuture<'_, Result<(), DriverError>> {
        Box::pin(self.0.release_virtual_function(index))
    }

    fn shutdown(&self, deadline: Deadline) -> LocalFuture<'_, Result<(), DriverError>> {
        Box::pin(self.0.shutdown(deadline))
    }
}

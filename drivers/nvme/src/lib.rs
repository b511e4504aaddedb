//! NVM Express for Doorbell: control plane driver, client API, and a software controller.

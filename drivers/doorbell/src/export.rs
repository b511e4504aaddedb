//! `doorbell export`.

use anyhow::{Context, Result};
use doorbell::DeviceSpec;
use doorbell::soft::HarnessOptions;
use doorbell::vfio_user::server::{Server, ServerOptions, Stopper};

use crate::cli::Export;
use crate::{output, registry};

/// Serves a software device until it is told to end.
pub(crate) fn run(args: &Export) -> Result<()> {
    let mut spec: DeviceSpec = format!("soft:{}", args.model).parse()?;
    let DeviceSpec::Soft { model, options } = &mut spec else {
        anyhow::bail!("'{}' names no software model; write MODEL[,KEY=VALUE...]", args.model);
    };
    for image in &args.image {
        let path = image.to_str().context("an image's path must be UTF-8")?;
        options.push(("image".to_owned(), path.to_owned()));
    }
    let name = format!("soft:{model}");
    let device = registry::all().open_model(&spec)?;
    let harness = HarnessOptions { name: name.into(), cpu: args.core, ..HarnessOptions::default() };
    let options = ServerOptions { socket: args.socket.clone(), mode: args.mode, once: args.once };
    // Before there is a socket to connect to, so that no signal finds nobody.
    let signals = Signals::listen()?;
    let mut server = Server::bind(device, harness, &options)?;
    signals.stop_with(server.stopper())?;
    output::print(format!("exporting {spec} at {}\n", server.path().display()))?;
    Ok(server.run()?)
}

/// SIGINT and SIGTERM.
struct Signals {
    runtime: tokio::runtime::Runtime,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting to listen for signals")?;
        let (interrupt, terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        };
        let listening = "listening for SIGINT and SIGTERM";
        let (interrupt, terminate) = (interrupt.context(listening)?, terminate.context(listening)?);
        Ok(Self { runtime, interrupt, terminate })
    }

    /// Ends the server at the first of them.
    fn stop_with(self, stopper: Stopper) -> Result<()> {
        let Self { runtime, mut interrupt, mut terminate } = self;
        let wait = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            stopper.stop();
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(wait)
            .context("starting a thread that listens for signals")?;
        Ok(())
    }
}

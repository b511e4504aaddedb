//! VERSION, the socket, one client after the other.

use rustix::io::Errno;

use super::*;
use crate::vfio_user::Capabilities;

fn version(served: &Served, major: u16, minor: u16, data: &[u8]) -> Result<Frame, u32> {
    served.connect().ask(&Request::Version(Version { major, minor, data }), vec![])
}

#[test]
fn the_lower_minor_version_is_agreed_on() {
    let served = Served::new();
    for (proposed, agreed) in [(0, 0), (1, 1), (9, 1), (u16::MAX, 1)] {
        let frame = version(&served, 0, proposed, b"").unwrap();
        let reply = Version::decode(&frame.payload).unwrap();
        assert_eq!((reply.major, reply.minor), (0, agreed));
        assert_eq!(frame.payload[4..], *b"{\"capabilities\":{}}\0", "nothing was proposed");
    }
}

#[test]
fn of_the_capabilities_proposed_those_that_we_have_are_chosen() {
    let served = Served::new();
    let all = br#"{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":65536,"max_dma_maps":9,"pgsizes":4096,"write_multiple":true,"new":1,"migration":{"pgsize":4096}}}"#;
    let frame = version(&served, 0, 0, all).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&frame.payload[4..]),
        "{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576,\"max_dma_maps\":65535,\
         \"pgsizes\":4096,\"write_multiple\":true}}\0"
    );
    let all = br#"{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":65536,"max_dma_maps":9,"pgsizes":4096,"write_multiple":true,"twin_socket":{"supported":true}}}"#;
    let frame = version(&served, 0, 0, all).unwrap();
    assert!(frame.payload.len() - 4 <= 194, "longer than clients in the field take");
    assert_eq!(frame.fds.len(), 1);
    let reply = Version::decode(&frame.payload).unwrap().capabilities().unwrap();
    assert_eq!(reply.twin_socket.unwrap().fd_index, Some(0));
    let frame = version(&served, 0, 1, br#"{"capabilities":{"write_multiple":false}}"#).unwrap();
    let reply = Version::decode(&frame.payload).unwrap().capabilities().unwrap();
    assert_eq!(reply, Capabilities::default());
}

#[test]
fn who_cannot_agree_is_told_and_let_go() {
    let served = Served::new();
    for (major, data) in [(1, &b""[..]), (0, b"{"), (0, b"[]"), (0, b"{\"capabilities\":7}")] {
        let mut client = served.connect();
        let request = Request::Version(Version { major, minor: 0, data });
        assert_eq!(client.ask(&request, vec![]).unwrap_err(), errno(Errno::INVAL));
        assert!(client.is_dismissed());
    }
    let mut client = served.connect();
    assert_eq!(client.read(pci::CONFIG, 0, 4).unwrap_err(), errno(Errno::INVAL), "not the first");
    assert!(client.is_dismissed());
    let mut client = served.client();
    let again = Request::Version(Version { major: 0, minor: 0, data: b"" });
    assert_eq!(client.ask(&again, vec![]).unwrap_err(), errno(Errno::INVAL));
    assert_eq!(client.read(pci::CONFIG, 0, 2).unwrap(), [0x34, 0x12], "it is served all the same");
}

#[test]
fn a_second_client_is_turned_away_and_the_next_is_served() {
    let served = Served::new();
    let mut first = served.client();
    for _ in 0..3 {
        assert!(served.connect().is_dismissed());
        assert_eq!(first.read(pci::CONFIG, 0, 2).unwrap(), [0x34, 0x12]);
    }
    for _ in 0..5 {
        first.enable();
        drop(first);
        first = served.free_client();
        assert_eq!(first.read(pci::CONFIG, 4, 2).unwrap(), [0, 0], "as after power-on");
    }
    drop(first);
    served.end();
}

#[test]
fn a_server_for_one_client_ends_with_it() {
    let mut served = Served::with(|options| options.once = true);
    drop(served.client());
    served.thread.take().unwrap().join().unwrap().unwrap();
    assert!(!served.path.exists());
}

#[test]
fn a_stopped_server_lets_its_client_go() {
    let served = Served::new();
    let mut client = served.client();
    served.end();
    assert!(client.is_dismissed());
}

#[test]
fn sockets_of_the_dead_are_taken_over_and_others_are_left_alone() {
    let bind = |options: &ServerOptions| {
        Server::bind(Box::new(CopyEngine::default()), super::options(), options)
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let options = ServerOptions::at(&path);
    let server = bind(&options).unwrap();
    assert!(matches!(bind(&options), Err(ServerError::InUse(_))));
    drop(server);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a dead server's socket");
    let server = bind(&options).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    drop(server);
    std::fs::write(&path, "data").unwrap();
    assert!(matches!(bind(&options), Err(ServerError::NoSocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"data");
    let long = ServerOptions::at(folder.path().join("x".repeat(100)));
    let error = bind(&long).unwrap_err().to_string();
    assert!(error.contains("at most 107"), "{error}");
}

//! Connections that carry a byte each way, and such that do not any more.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use super::{Netns, REFUSED, SOON};

/// Connects `from` to `to` and sends a byte each way.
pub fn talk(from: &Netns, listener: &TcpListener, to: &str) -> (TcpStream, TcpStream) {
    let mut client = from.connect(to, SOON).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    exchange(&mut client, &mut server);
    (client, server)
}

pub fn exchange(client: &mut TcpStream, server: &mut TcpStream) {
    pass(client, server);
    pass(server, client);
}

fn pass(from: &mut TcpStream, to: &mut TcpStream) {
    to.set_read_timeout(Some(SOON)).unwrap();
    from.write_all(b"x").unwrap();
    let mut byte = [0; 1];
    to.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x", "the socket got something that nobody wrote");
}

/// Whether nothing passes any more.
pub fn is_cut(client: &mut TcpStream, server: &mut TcpStream) -> bool {
    server.set_read_timeout(Some(REFUSED)).unwrap();
    client.write_all(b"x").is_err() || server.read_exact(&mut [0]).is_err()
}

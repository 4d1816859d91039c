//! A TCP proxy that holds one EndTxn back: the late request must not end the transaction that comes after it
//! (`notes/kafka-measured.md` E6: without a new producer half of an aborted transaction becomes visible).

use crate::harness::{PATIENCE, closing, committed_texts, join, log, outgoing, ready, topic, unique};
use bulkhead_actors::log::PublishError;
use bulkhead_core::ids::Partition;
use bulkhead_testkit::kafka::Kafka;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

const END_TXN: i16 = 26;

/// What the threads of the proxy share.
struct Gate {
    /// The next EndTxn is to be held.
    armed: AtomicBool,
    held: Mutex<Option<Sender<()>>>,
    release: Mutex<Option<Receiver<()>>>,
    passed: Mutex<Option<Sender<()>>>,
}

/// Forwards connections to the broker, frame by frame on the way there.
fn serve(listener: TcpListener, target: u16, gate: Arc<Gate>) {
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(client) = client else { return };
            let Ok(broker) = TcpStream::connect(("127.0.0.1", target)) else { continue };
            let (mut back, mut to_client) = (broker.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let ended = std::io::copy(&mut back, &mut to_client);
                drop((ended, to_client.shutdown(Shutdown::Both)));
            });
            let gate = Arc::clone(&gate);
            std::thread::spawn(move || drop(forward(client, broker, &gate)));
        }
    });
}

fn forward(mut client: TcpStream, mut broker: TcpStream, gate: &Gate) -> std::io::Result<()> {
    loop {
        let mut head = [0_u8; 6];
        client.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let mut body = vec![0_u8; length - 2];
        client.read_exact(&mut body)?;
        let held = i16::from_be_bytes([head[4], head[5]]) == END_TXN && gate.armed.swap(false, Ordering::AcqRel);
        if held {
            gate.held.lock().unwrap().take().unwrap().send(()).unwrap();
            let release = gate.release.lock().unwrap().take().unwrap();
            release.recv().unwrap();
        }
        broker.write_all(&head)?;
        broker.write_all(&body)?;
        if held {
            gate.passed.lock().unwrap().take().unwrap().send(()).unwrap();
        }
    }
}

#[test]
fn a_late_end_of_a_transaction_does_not_tear_the_next() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ((tell_held, held), (release, released), (tell_passed, passed)) = (channel(), channel(), channel());
    let gate = Arc::new(Gate {
        armed: AtomicBool::new(false),
        held: Mutex::new(Some(tell_held)),
        release: Mutex::new(Some(released)),
        passed: Mutex::new(Some(tell_passed)),
    });
    let kafka = Kafka::start_behind(|port| {
        let address = listener.local_addr().unwrap();
        serve(listener, port, Arc::clone(&gate));
        address
    });

    let log = log(&kafka);
    let (source, output) = (topic(&log, "in", 1), topic(&log, "out", 1));
    let (group, _) = join(&log, &unique("group"), &source, 1);
    let mut publisher = ready(&*group, 0);
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&output, 0, "first")).unwrap();
    gate.armed.store(true, Ordering::Release);
    let ended = publisher.commit(&closing(0, 1));
    held.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(ended, Err(PublishError::Unknown(_))), "an end that took so long proves nothing: {ended:?}");
    publisher.rebuild().unwrap();
    assert_eq!(publisher.committed(&[Partition(0)]).unwrap()[0].map(|p| p.0), Some(1), "it was committed after all");

    publisher.begin().unwrap();
    publisher.produce(&outgoing(&output, 0, "never seen")).unwrap();
    release.send(()).unwrap();
    passed.recv_timeout(PATIENCE).unwrap();
    // A round trip through the same broker: the late request has been answered, with a refusal, before this is.
    assert_eq!(publisher.committed(&[Partition(0)]).unwrap()[0].map(|p| p.0), Some(1));
    publisher.abort().unwrap();
    publisher.begin().unwrap();
    publisher.produce(&outgoing(&output, 0, "third")).unwrap();
    publisher.commit(&closing(0, 2)).unwrap();
    assert_eq!(committed_texts(&log, &output, 0), ["first", "third"]);
    group.leave().unwrap();
}

//! Every fault of the proxy, over an echo server.

use std::{net::SocketAddr, time::Duration};

use clawstead_harness::fault_proxy::{Counters, Delay, Direction, Door, FaultProxy, Faults};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = client.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    at
}

async fn proxy() -> FaultProxy {
    FaultProxy::start(echo().await, 7).unwrap()
}

async fn round(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).await.unwrap();
    let mut back = vec![0; bytes.len()];
    timeout(LONG, stream.read_exact(&mut back)).await.unwrap().unwrap();
    back
}

async fn is_cut(stream: &mut TcpStream) -> bool {
    matches!(timeout(LONG, stream.read(&mut [0; 16])).await, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn without_faults_bytes_pass_and_the_end_of_one_side_too() {
    let proxy = proxy().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let (mut reader, mut writer) = stream.split();
    let mut back = Vec::new();
    let (sent, got) = tokio::join!(
        async {
            writer.write_all(&bytes).await?;
            writer.shutdown().await
        },
        reader.read_to_end(&mut back)
    );
    sent.unwrap();
    got.unwrap();
    assert_eq!(back, bytes);
    assert_eq!(proxy.counters(), Counters { accepted: 1, to_server: 1_000_000, to_client: 1_000_000, ..Counters::default() });
}

#[tokio::test]
async fn connections_are_cut_at_once_by_chance_and_by_the_clock() {
    let proxy = proxy().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    round(&mut stream, b"alive").await;
    proxy.cut();
    assert!(is_cut(&mut stream).await);

    proxy.set(Direction::ToServer, Faults { cut: 1.0, ..Faults::default() });
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert!(is_cut(&mut stream).await);

    proxy.set_both(Faults::default());
    proxy.cut_every(Some(Duration::from_millis(20)));
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(is_cut(&mut stream).await);
    proxy.heal().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(round(&mut stream, b"alive").await, b"alive");
    assert!(proxy.counters().cut >= 3, "{:?}", proxy.counters());
}

#[tokio::test]
async fn pieces_are_late_in_order_and_not_faster_than_allowed() {
    let proxy = proxy().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    proxy.set(Direction::ToServer, Faults { delay: Delay::Fixed(Duration::from_millis(150)), ..Faults::default() });
    let began = Instant::now();
    round(&mut stream, b"late").await;
    assert!(began.elapsed() >= Duration::from_millis(150));

    proxy.set(Direction::ToServer, Faults { delay: Delay::Exponential { mean: Duration::from_millis(5), max: SHORT }, ..Faults::default() });
    let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut reader, mut writer) = stream.split();
    let mut back = vec![0; bytes.len()];
    let (sent, got) = tokio::join!(writer.write_all(&bytes), timeout(LONG, reader.read_exact(&mut back)));
    sent.unwrap();
    got.unwrap().unwrap();
    assert_eq!(back, bytes);

    proxy.set(Direction::ToServer, Faults { bytes_per_second: Some(10_000), ..Faults::default() });
    let began = Instant::now();
    round(&mut stream, &[1; 5_000]).await;
    assert!(began.elapsed() >= Duration::from_millis(490), "{:?}", began.elapsed());
}

#[tokio::test]
async fn bytes_are_swallowed_and_changed() {
    let proxy = proxy().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    proxy.set(Direction::ToClient, Faults { corrupt: 1.0, ..Faults::default() });
    let back = round(&mut stream, b"0123456789").await;
    assert_eq!(back.iter().zip(b"0123456789").filter(|(got, sent)| got != sent).count(), 1);
    proxy.set(Direction::ToClient, Faults { drop: 1.0, ..Faults::default() });
    stream.write_all(b"gone").await.unwrap();
    assert!(timeout(SHORT, stream.read(&mut [0; 16])).await.is_err());
    assert_eq!((proxy.counters().corrupted, proxy.counters().dropped), (1, 4));
}

#[tokio::test]
async fn the_door_is_refused_half_open_and_open_again() {
    let proxy = proxy().await;
    for _ in 0..3 {
        proxy.door(Door::Refuse).await;
        assert_eq!(TcpStream::connect(proxy.addr()).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        proxy.door(Door::HalfOpen).await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        stream.write_all(b"hello?").await.unwrap();
        assert!(timeout(SHORT, stream.read(&mut [0; 16])).await.is_err());
        proxy.heal().await;
        assert!(is_cut(&mut stream).await, "heal ends what was half-open");
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(round(&mut stream, b"alive").await, b"alive");
    }
    assert_eq!(proxy.counters().half_open, 3);
}

#[tokio::test]
async fn a_frozen_machine_says_nothing_on_open_and_new_connections() {
    let proxy = proxy().await;
    let mut old = TcpStream::connect(proxy.addr()).await.unwrap();
    round(&mut old, b"alive").await;
    proxy.freeze().await;
    let mut new = TcpStream::connect(proxy.addr()).await.unwrap();
    for stream in [&mut old, &mut new] {
        stream.write_all(b"hello?").await.unwrap();
        assert!(timeout(SHORT, stream.read(&mut [0; 16])).await.is_err());
    }
}

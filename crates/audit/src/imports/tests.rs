use doorward_core::{AccessId, Import};
use uuid::Uuid;

use super::*;
use crate::row::Input;
use crate::spool::files::Files;
use crate::spool::model::{FakeDisk, record};

fn id(number: u32) -> Id {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes[6] = 0x80;
    bytes[8] = 0x80;
    bytes
}

fn ticket(window: &Window, number: u32) -> Ticket {
    match window.note(id(number)) {
        Seen::New(ticket) => ticket,
        Seen::Before(_) => panic!("{number} was not seen before"),
    }
}

fn repeat(window: &Window, number: u32) -> Durable {
    match window.note(id(number)) {
        Seen::Before(Import::Repeated(durable)) => durable,
        _ => panic!("{number} was seen before"),
    }
}

#[tokio::test]
async fn a_repeat_is_acknowledged_when_the_first_is_durable() {
    let window = Window::default();
    let first = ticket(&window, 1);
    let early = tokio::spawn(repeat(&window, 1));
    tokio::task::yield_now().await;
    assert!(!early.is_finished(), "the first is on its way");
    first.keep();
    assert_eq!(early.await.unwrap(), Ok(()));
    assert_eq!(repeat(&window, 1).await, Ok(()));

    let failed = ticket(&window, 2);
    let early = repeat(&window, 2);
    drop(failed);
    assert_eq!(early.await, Err(NotDurable), "what the first was refused, its repeat is refused too");
    ticket(&window, 2).keep();
}

#[test]
fn the_file_and_the_segments_together_forget_nothing() {
    let disk = FakeDisk::default();
    let none: [SegmentInfo; 0] = [];
    let window = Window::read(&disk, none.iter()).unwrap();
    for number in 0..10 {
        ticket(&window, number).keep();
    }
    window.save(&disk).unwrap();
    drop(ticket(&window, 11));

    // A segment that was not deleted yet: one imported record, one call of the gateway's own.
    let mut bytes = Vec::new();
    let header =
        wire::Header { salt: 7, epoch: 1, gateway_id: "gw".into(), columns: Vec::new(), encryption: None };
    wire::put_header(&mut bytes, 1, &header);
    for (seq, own) in [(2, false), (3, true)] {
        let mut call = record();
        let bytes_of_id = if own { *Uuid::now_v7().as_bytes() } else { id(12) };
        call.access_id = AccessId::from(Uuid::from_bytes(bytes_of_id));
        let (mut sealing, key) = crate::personal::testing::sealing(&[]);
        let seal = sealing.call(&key, call.access_id.as_bytes());
        wire::put_access(&mut bytes, (7, seq), false, Input { record: &call, subject: None }, seal);
    }
    let mut file = disk.create("a.seg", 0).unwrap();
    file.append(&bytes).unwrap();
    file.sync().unwrap();
    let length = u64::try_from(bytes.len()).unwrap();
    let segment = SegmentInfo { name: "a.seg".to_owned(), epoch: 1, length, sealed: true };

    let again = Window::read(&disk.power_cycle(1), std::iter::once(&segment)).unwrap();
    for number in (0..10).chain([12]) {
        assert!(matches!(again.note(id(number)), Seen::Before(Import::Repeated(_))), "{number}");
    }
    drop(ticket(&again, 11));
    assert_eq!(again.0.known.lock().unsaved.len(), 1, "of the segment only what can be repeated is kept");
}

#[test]
fn what_cannot_be_written_is_written_later_and_the_oldest_are_forgotten() {
    let disk = FakeDisk::default();
    let window = Window::default();
    ticket(&window, 1).keep();
    disk.crash_after(Some(0));
    assert!(window.save(&disk).is_err());
    disk.crash_after(None);
    let disk = disk.power_cycle(3);
    window.save(&disk).unwrap();
    let none: [SegmentInfo; 0] = [];
    let again = Window::read(&disk, none.iter()).unwrap();
    drop(repeat(&again, 1));

    let most = u32::try_from(FILED_MAX).unwrap();
    for number in 2..=most + 2 {
        ticket(&window, number).keep();
    }
    assert!(matches!(window.note(id(1)), Seen::New(_)), "a window forgets what is far behind");
    drop(repeat(&window, most));
}

/// A disk on which more ids become durable while the file is written.
struct Busy<'w> {
    disk: FakeDisk,
    window: &'w Window,
    meanwhile: std::ops::Range<u32>,
}

impl Files for Busy<'_> {
    fn put(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.meanwhile.clone().for_each(|number| ticket(self.window, number).keep());
        self.disk.put(name, content)
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.disk.list()
    }

    fn create(&self, name: &str, room: u64) -> io::Result<Box<dyn crate::spool::files::Appender>> {
        self.disk.create(name, room)
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn crate::spool::files::Appender>> {
        self.disk.append(name)
    }

    fn read(&self, name: &str, offset: u64, max: usize) -> io::Result<Vec<u8>> {
        self.disk.read(name, offset, max)
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        self.disk.truncate(name, length)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn set_aside(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.disk.set_aside(name, bytes)
    }

    fn free(&self) -> io::Result<Option<u64>> {
        self.disk.free()
    }

    fn keys(&self) -> crate::spool::encryption::Keys {
        self.disk.keys()
    }
}

#[test]
fn what_becomes_durable_while_a_full_queue_is_written_is_written_next() {
    let (window, most) = (Window::default(), u32::try_from(FILED_MAX).unwrap());
    (0..most).for_each(|number| ticket(&window, number).keep());
    let busy = Busy { disk: FakeDisk::default(), window: &window, meanwhile: most..most + 10 };
    window.save(&busy).unwrap();
    window.save(&busy.disk).unwrap();
    let none: [SegmentInfo; 0] = [];
    let again = Window::read(&busy.disk, none.iter()).unwrap();
    for number in most..most + 10 {
        drop(repeat(&again, number));
    }
}

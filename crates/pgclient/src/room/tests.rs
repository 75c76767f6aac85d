//! The room with connections that are only counted.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use tokio::task::yield_now;

use super::*;

/// A connection under a key, which only those can use who want that key.
struct Fake {
    key: u8,
    since: Instant,
    alive: Arc<AtomicUsize>,
}

impl Fake {
    fn open(key: u8, alive: &Arc<AtomicUsize>) -> Box<Self> {
        alive.fetch_add(1, Ordering::Relaxed);
        Box::new(Self { key, since: Instant::now(), alive: alive.clone() })
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Seated for Fake {
    type Wish = u8;

    fn fits(&self, wish: &u8) -> bool {
        self.key == *wish
    }

    fn idle_since(&self) -> Instant {
        self.since
    }

    fn close(self) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            yield_now().await;
            drop(self);
        })
    }
}

fn claim(tenant: &Tenant<Fake>, who: &str, key: u8) -> Claimed<Fake> {
    tenant.claim(|| who.into(), key, |idle, _| idle.iter().rposition(|idle| idle.conn.key == key))
}

/// Gets a connection, opening one if need be.
async fn get(tenant: &Tenant<Fake>, who: &str, key: u8, alive: &Arc<AtomicUsize>) -> Idle<Fake> {
    let grant = match claim(tenant, who, key) {
        Claimed::Now(grant) => grant,
        Claimed::InPlaceOf(closing) => Grant::Seat(closing.await),
        Claimed::Later(line) => line.granted_within(Duration::from_secs(60)).await.unwrap(),
    };
    open(grant, key, alive)
}

fn open(grant: Grant<Fake>, key: u8, alive: &Arc<AtomicUsize>) -> Idle<Fake> {
    match grant {
        Grant::Connection(idle) => {
            assert_eq!(idle.conn.key, key);
            idle
        }
        Grant::Seat(seat) => Idle { conn: Fake::open(key, alive), seat },
    }
}

fn line(claimed: Claimed<Fake>) -> InLine<Fake> {
    match claimed {
        Claimed::Later(line) => line,
        Claimed::Now(_) | Claimed::InPlaceOf(_) => panic!("there was a place"),
    }
}

async fn settle() {
    for _ in 0..8 {
        yield_now().await;
    }
}

fn room(size: usize) -> (Room, Tenant<Fake>, Tenant<Fake>, Arc<AtomicUsize>) {
    let room = Room::new(size);
    let (rest, wire) = (room.tenant("rest", size), room.tenant("postgres", size));
    (room, rest, wire, Arc::default())
}

#[tokio::test]
async fn an_idle_connection_of_one_door_makes_room_for_the_other() {
    let (room, rest, wire, alive) = room(2);
    for _ in 0..2 {
        let Idle { conn, seat } = get(&rest, "a", 1, &alive).await;
        let held = get(&rest, "a", 2, &alive).await;
        rest.keep(conn, seat);
        rest.keep(held.conn, held.seat);
    }
    assert_eq!((rest.counts().idle, room.places()), (2, (2, 2)));
    let held = get(&wire, "b", 1, &alive).await;
    assert_eq!((rest.counts().idle, wire.counts().in_use, alive.load(Ordering::Relaxed)), (1, 1, 2));
    drop(held);
    assert_eq!((room.places(), wire.counts().free), ((2, 1), 2));
}

#[tokio::test]
async fn doors_have_fair_shares_and_keep_their_connections() {
    let (_room, rest, wire, alive) = room(3);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(get(&rest, "a", 1, &alive).await);
    }
    let mut rest_line: Vec<_> = (0..3).map(|_| line(claim(&rest, "a", 1))).collect();
    let mut wire_line: Vec<_> = (0..3).map(|_| line(claim(&wire, "b", 9))).collect();
    let Idle { conn, seat } = held.remove(0);
    rest.keep(conn, seat);
    settle().await;
    // The Postgres door has nothing, so the first is for it: the other's is closed.
    let mut wired = open(wire_line.remove(0).granted().await.unwrap(), 9, &alive);
    assert_eq!(alive.load(Ordering::Relaxed), 3);
    // From then on nobody's connection is closed for the other's sake.
    for turn in 0..2 {
        let Idle { conn, seat } = held.remove(0);
        rest.keep(conn, seat);
        settle().await;
        held.push(open(rest_line.remove(0).granted().await.unwrap(), 1, &alive));
        wire.keep(wired.conn, wired.seat);
        settle().await;
        wired = open(wire_line.remove(0).granted().await.unwrap(), 9, &alive);
        assert_eq!((rest.counts().in_use, wire.counts().in_use), (2, 1), "turn {turn}");
    }
}

#[tokio::test]
async fn with_one_place_the_doors_take_turns() {
    let (_room, rest, wire, alive) = room(1);
    let mut held = Some(get(&rest, "a", 1, &alive).await);
    let mut lines = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        lines[0].push(line(claim(&wire, "b", 9)));
        lines[1].push(line(claim(&rest, "a", 1)));
    }
    for turn in 0..6 {
        let (giver, taken) = if turn % 2 == 0 { (&rest, 9) } else { (&wire, 1) };
        let Idle { conn, seat } = held.take().unwrap();
        giver.keep(conn, seat);
        settle().await;
        let mut next = lines[turn % 2].remove(0);
        held = Some(open(next.granted().await.unwrap(), taken, &alive));
        assert_eq!(alive.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn a_tenth_of_the_places_is_left_to_the_other_door() {
    let (room, rest, wire, alive) = room(20);
    let mut held = Vec::new();
    for _ in 0..18 {
        held.push(get(&wire, "a", 1, &alive).await);
    }
    let waiting = line(claim(&wire, "a", 1));
    assert_eq!((wire.counts().waiting, wire.counts().free, rest.counts().free), (1, 0, 2));
    assert!(matches!(claim(&rest, "b", 1), Claimed::Now(Grant::Seat(_))));
    // Without another door there is nobody to leave them to.
    drop(rest);
    assert!(waiting.granted_within(Duration::from_secs(60)).await.is_some());
    assert_eq!(room.places(), (20, 18), "what was granted is dropped");
}

#[tokio::test]
async fn a_room_that_shrinks_loses_idle_connections_first() {
    let (room, rest, wire, alive) = room(4);
    let mut held = Vec::new();
    for tenant in [&rest, &rest, &wire, &wire] {
        held.push(get(tenant, "a", 1, &alive).await);
    }
    let Idle { conn, seat } = held.remove(0);
    rest.keep(conn, seat);
    room.resize(2);
    settle().await;
    assert_eq!((room.places(), rest.counts().idle), ((2, 3), 0));
    let waiting = line(claim(&rest, "a", 1));
    let Idle { conn, seat } = held.remove(0);
    rest.keep(conn, seat);
    settle().await;
    assert_eq!((room.places(), alive.load(Ordering::Relaxed)), ((2, 2), 2));
    room.resize(3);
    assert!(waiting.granted_within(Duration::from_secs(60)).await.is_some());
}

#[tokio::test]
async fn a_pool_that_ends_gives_its_places_back() {
    let (room, rest, wire, alive) = room(2);
    for tenant in [&rest, &wire] {
        let Idle { conn, seat } = get(tenant, "a", 1, &alive).await;
        tenant.keep(conn, seat);
    }
    // The resource is opened anew, while a session goes on.
    let session = get(&wire, "a", 1, &alive).await;
    let newer = room.tenant::<Fake>("postgres", 2);
    drop((rest, wire));
    settle().await;
    assert_eq!((room.places(), alive.load(Ordering::Relaxed)), ((2, 1), 1));
    let one = get(&newer, "a", 1, &alive).await;
    let waiting = line(claim(&newer, "a", 1));
    drop(session);
    assert!(waiting.granted_within(Duration::from_secs(60)).await.is_some());
    drop(one);
    assert_eq!(room.places(), (2, 0));
}

#[derive(Clone, Debug)]
enum Move {
    Claim { tenant: usize, who: u8, key: u8 },
    Keep(usize),
    Close(usize),
    Leave(usize),
    Resize(usize),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        6 => (0..2_usize, 0..3_u8, 0..2_u8).prop_map(|(tenant, who, key)| Move::Claim { tenant, who, key }),
        4 => (0..8_usize).prop_map(Move::Keep),
        1 => (0..8_usize).prop_map(Move::Close),
        1 => (0..8_usize).prop_map(Move::Leave),
        1 => (1..14_usize).prop_map(Move::Resize),
    ];
    proptest::collection::vec(one, 0..120)
}

/// Those who play: what they hold, and where they wait.
struct Play {
    room: Room,
    tenants: [Tenant<Fake>; 2],
    alive: Arc<AtomicUsize>,
    held: Vec<(usize, Idle<Fake>)>,
    lines: Vec<(usize, u8, InLine<Fake>)>,
}

impl Play {
    async fn make(&mut self, step: Move) {
        let before = self.room.places().1;
        match step {
            Move::Claim { tenant, who, key } => match claim(&self.tenants[tenant], &who.to_string(), key) {
                Claimed::Now(grant) => self.held.push((tenant, open(grant, key, &self.alive))),
                Claimed::InPlaceOf(closing) => {
                    let grant = Grant::Seat(closing.await);
                    self.held.push((tenant, open(grant, key, &self.alive)));
                }
                Claimed::Later(line) => self.lines.push((tenant, key, line)),
            },
            Move::Keep(at) if at < self.held.len() => {
                let (tenant, Idle { mut conn, seat }) = self.held.remove(at);
                conn.since = Instant::now();
                self.tenants[tenant].keep(conn, seat);
            }
            Move::Close(at) if at < self.held.len() => drop(self.held.remove(at)),
            Move::Leave(at) if at < self.lines.len() => drop(self.lines.remove(at)),
            Move::Resize(size) => self.room.resize(size),
            Move::Keep(_) | Move::Close(_) | Move::Leave(_) => {}
        }
        settle().await;
        for (tenant, key, mut line) in std::mem::take(&mut self.lines) {
            match line.grant.try_recv() {
                Ok(grant) => self.held.push((tenant, open(grant, key, &self.alive))),
                Err(_) => self.lines.push((tenant, key, line)),
            }
        }
        let (size, taken) = self.room.places();
        assert!(taken <= size || taken <= before, "{taken} of {size}, {before} before");
    }

    fn check(&self) {
        let (size, taken) = self.room.places();
        let counts = self.tenants.each_ref().map(Tenant::counts);
        let idle = counts.iter().map(|counts| counts.idle).sum::<usize>();
        assert_eq!(taken, self.held.len() + idle, "each place is of a connection");
        assert_eq!(taken, self.alive.load(Ordering::Relaxed));
        for (at, counts) in counts.iter().enumerate() {
            let mine = self.lines.iter().filter(|(tenant, ..)| *tenant == at).count();
            assert_eq!((counts.waiting, counts.size), (mine, size));
            assert!(mine == 0 || counts.free == 0 || taken > size, "who waits could have one: {counts:?}");
        }
    }
}

proptest! {
    /// Never more than there are places, nobody waits in vain, and all places come back.
    #[test]
    fn places_are_never_lost_and_never_more(size in 1..12_usize, moves in moves()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (room, rest, wire, alive) = room(size);
            let (tenants, held, lines) = ([rest, wire], Vec::new(), Vec::new());
            let mut play = Play { room, tenants, alive, held, lines };
            for step in moves {
                play.make(step).await;
                play.check();
            }
            // Whoever waits gets it, when everybody gives back in turn.
            while !play.lines.is_empty() {
                assert!(!play.held.is_empty());
                play.make(Move::Keep(0)).await;
                play.check();
            }
            play.held.clear();
            let Play { room, tenants, alive, .. } = play;
            drop(tenants);
            settle().await;
            assert_eq!((room.places().1, alive.load(Ordering::Relaxed)), (0, 0));
        });
    }
}

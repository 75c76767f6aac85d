//! The places that a resource has for connections to its database, of all its pools together.
//!
//! Each pool is a [`Tenant`] of the room, of the door that it serves. Whoever wants a connection gets one that stands
//! idle and fits; or a [`Seat`], which is the right to open one; or the seat of the connection of any pool that has stood
//! idle longest, once that is closed; or waits. Within a door principals take turns ([`fair`]); between doors, one that
//! waits and has less than its fair share comes first.
//!
//! Invariants:
//! - No more seats than places exist: a seat is taken before a connection is dialled, and comes back when it has been
//!   closed. Dropped, it comes back exactly once, whatever happened to its holder.
//! - Nobody waits while there is a place that they may have, or an idle connection that could make room for them: idle
//!   connections, seats and lines are looked at and changed under one lock.
//! - A door leaves a tenth of the places to the others, so that sessions that last cannot shut them out.
//! - Connections are closed, and their seats dropped, outside of the lock.
//!
//! A connection is anything that is [`Seated`]; the room knows no protocol.

mod fair;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward_core::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use fair::Fair;

/// One place of so many is left to other doors.
const RESERVED_OF: usize = 10;

/// A connection that takes a place.
pub trait Seated: Send + Sized + 'static {
    /// What somebody wants of a connection.
    type Wish: Send;

    /// Whether it is what somebody wants, as it is.
    fn fits(&self, wish: &Self::Wish) -> bool;

    /// Since when nobody has used it.
    fn idle_since(&self) -> Instant;

    /// Ends it: returns when the server has, or after a short while.
    fn close(self) -> BoxFuture<'static, ()>;
}

/// The places of a resource. A clone is the same room.
#[derive(Clone)]
pub struct Room(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
}

struct State {
    size: usize,
    /// Seats that exist.
    open: usize,
    doors: Vec<Door>,
    members: Vec<Member>,
    ids: u64,
    turns: u64,
}

/// The tenants of one door together. There are as many as doors on databases.
struct Door {
    name: &'static str,
    held: usize,
}

struct Member {
    id: u64,
    door: usize,
    most: usize,
    /// When it was last its turn.
    served: u64,
    desk: Arc<dyn AnyDesk>,
}

/// One pool's part of a room. A clone is the same.
pub struct Tenant<T: Seated>(Arc<Inner<T>>);

struct Inner<T: Seated> {
    room: Arc<Shared>,
    id: u64,
    door: usize,
    desk: Arc<Mutex<Desk<T>>>,
}

/// What a tenant has. Locked within the room's lock.
struct Desk<T: Seated> {
    /// The one that was used last stands last.
    idle: Vec<Idle<T>>,
    line: Fair<Waiter<T>>,
}

/// A connection with its seat: one that stands idle, or that somebody has.
#[derive(Debug)]
pub struct Idle<T> {
    /// The connection.
    pub conn: Box<T>,
    /// Its seat.
    pub seat: Seat,
}

impl<T: Seated> Idle<T> {
    /// Ends it in the background. Its seat is for the next one, once it has ended.
    pub fn end(self) {
        close(self.conn, self.seat, None);
    }
}

struct Waiter<T: Seated> {
    wish: T::Wish,
    to: oneshot::Sender<Grant<T>>,
}

/// The right to hold one connection. Dropped, it is for the next one who waits.
pub struct Seat {
    room: Arc<Shared>,
    door: usize,
    spent: bool,
}

/// What somebody gets who wants a connection.
pub enum Grant<T> {
    /// One that fits, as it is.
    Connection(Idle<T>),
    /// The right to open one.
    Seat(Seat),
}

/// How somebody gets it.
pub enum Claimed<T: Seated> {
    /// At once.
    Now(Grant<T>),
    /// As soon as another connection is closed.
    InPlaceOf(BoxFuture<'static, Seat>),
    /// When it is their turn.
    Later(InLine<T>),
}

/// A place in the line. Dropped, it is given up, and what came in the last moment is the next one's.
pub struct InLine<T: Seated> {
    tenant: Tenant<T>,
    who: Arc<str>,
    ticket: u64,
    grant: oneshot::Receiver<Grant<T>>,
}

/// What a tenant's door is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The places of the room.
    pub size: usize,
    /// The door's connections that stand ready.
    pub idle: usize,
    /// The door's other connections: those in use, being made, cleaned or closed.
    pub in_use: usize,
    /// Those who wait in this tenant's line.
    pub waiting: usize,
    /// Connections that could be had now.
    pub free: usize,
}

/// Who is given a seat that becomes free for them later. The seat again when they have gone.
type Taker = Box<dyn FnOnce(Seat) -> Option<Seat> + Send>;

/// A desk, whatever its connections are.
trait AnyDesk: Send + Sync {
    fn waiting(&self) -> usize;
    fn idle(&self) -> usize;
    fn oldest(&self) -> Option<Instant>;
    /// Ends the connection that has stood idle longest, and gives its seat to a door.
    fn evict(&self, to: usize) -> Option<BoxFuture<'static, Seat>>;
    /// Gives a seat to the next one in line; the seat again when nobody is left.
    fn offer(&self, seat: Seat) -> Result<(), Seat>;
    /// Takes the next one out of the line.
    fn taker(&self) -> Option<Taker>;
}

impl Room {
    /// A room with so many places.
    pub fn new(size: usize) -> Self {
        let (doors, members, ids, turns) = Default::default();
        let state = State { size: size.max(1), open: 0, doors, members, ids, turns };
        Self(Arc::new(Shared { state: Mutex::new(state) }))
    }

    /// Takes a pool of a door in, which may have `most` connections.
    pub fn tenant<T: Seated>(&self, door: &'static str, most: usize) -> Tenant<T> {
        let desk = Arc::new(Mutex::new(Desk { idle: Vec::new(), line: Fair::new() }));
        let mut state = self.0.state.lock();
        let known = state.doors.iter().position(|known| known.name == door);
        let door = known.unwrap_or_else(|| {
            state.doors.push(Door { name: door, held: 0 });
            state.doors.len() - 1
        });
        state.ids += 1;
        let id = state.ids;
        state.members.push(Member { id, door, most: most.max(1), served: 0, desk: desk.clone() });
        drop(state);
        Tenant(Arc::new(Inner { room: self.0.clone(), id, door, desk }))
    }

    /// Changes how many places there are. Connections that are in use beyond that are closed when they are given back.
    pub fn resize(&self, size: usize) {
        let mut closing = Vec::new();
        let mut state = self.0.state.lock();
        state.size = size.max(1);
        while state.open > state.size.saturating_add(closing.len())
            && let Some(door) = state.oldest(None).map(|member| member.door)
            && let Some(closed) = state.evict(None, door)
        {
            closing.push(closed);
        }
        self.0.serve(&mut state);
        drop(state);
        closing.into_iter().for_each(|closed| in_background(async { drop(closed.await) }));
    }

    /// The places, and how many of them are taken.
    pub fn places(&self) -> (usize, usize) {
        let state = self.0.state.lock();
        (state.size, state.open)
    }
}

impl State {
    fn held(&self, door: usize) -> usize {
        self.doors.get(door).map_or(0, |door| door.held)
    }

    fn take(&mut self, door: usize) {
        self.open += 1;
        if let Some(door) = self.doors.get_mut(door) {
            door.held += 1;
        }
    }

    fn give(&mut self, door: usize) {
        self.open = self.open.saturating_sub(1);
        if let Some(door) = self.doors.get_mut(door) {
            door.held = door.held.saturating_sub(1);
        }
    }

    /// A seat is another door's from now on.
    fn pass(&mut self, seat: &mut Seat, to: usize) {
        self.give(seat.door);
        self.take(to);
        seat.door = to;
    }

    fn member(&self, id: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// The most connections that a tenant's door may have.
    fn limit(&self, member: &Member) -> usize {
        let alone = self.members.iter().all(|other| other.door == member.door);
        let reserved = if alone { 0 } else { self.size / RESERVED_OF };
        member.most.min(self.size.saturating_sub(reserved))
    }

    fn may_grow(&self, member: &Member) -> bool {
        self.held(member.door) < self.limit(member)
    }

    /// Whose idle connection is the oldest: of one door, or of all.
    fn oldest(&self, door: Option<usize>) -> Option<&Member> {
        let those = self.members.iter().filter(|member| door.is_none_or(|door| member.door == door));
        let aged = those.filter_map(|member| Some((member.desk.oldest()?, member)));
        aged.min_by_key(|(since, _)| *since).map(|(_, member)| member)
    }

    /// Ends the oldest idle connection of one door, or of all, for the sake of a door.
    fn evict(&mut self, of: Option<usize>, to: usize) -> Option<BoxFuture<'static, Seat>> {
        let member = self.oldest(of)?;
        let (from, closing) = (member.door, member.desk.evict(to)?);
        self.give(from);
        self.take(to);
        Some(closing)
    }

    /// Who is next: for a place that is free, or for one that a door gives back.
    fn next(&mut self, giver: Option<usize>) -> Option<(u64, usize, Arc<dyn AnyDesk>)> {
        let waits = |member: &&Member| {
            member.desk.waiting() > 0 && (giver == Some(member.door) || self.may_grow(member))
        };
        let those: Vec<&Member> = self.members.iter().filter(waits).collect();
        if those.is_empty() {
            return None;
        }
        let doors = (0..self.doors.len()).filter(|door| those.iter().any(|member| member.door == *door));
        let fair = (self.size / doors.count().max(1)).max(1);
        // Who has less than a fair share comes first. Then a connection stays with its door: to be closed for another
        // one's sake it must be worth it.
        let rank = |member: &Member| match (giver, self.held(member.door)) {
            (Some(door), _) if door == member.door => 1,
            (_, held) if held < fair => 0,
            _ => 2,
        };
        let order = |member: &&Member| (rank(member), self.held(member.door), member.served);
        let next = those.into_iter().min_by_key(order)?;
        let (id, door, desk) = (next.id, next.door, next.desk.clone());
        self.turns += 1;
        let turn = self.turns;
        if let Some(member) = self.members.iter_mut().find(|member| member.id == id) {
            member.served = turn;
        }
        Some((id, door, desk))
    }
}

impl Shared {
    /// Gives the places that are free to those who wait.
    fn serve(self: &Arc<Self>, state: &mut State) {
        while state.open < state.size
            && let Some((_, door, desk)) = state.next(None)
        {
            state.take(door);
            if let Err(mut seat) = desk.offer(Seat { room: self.clone(), door, spent: false }) {
                seat.spent = true;
                state.give(door);
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !std::mem::replace(&mut self.spent, true) {
            let mut state = self.room.state.lock();
            state.give(self.door);
            self.room.serve(&mut state);
        }
    }
}

impl<T: Seated> Tenant<T> {
    /// Gets a connection, or the right to open one. `find` chooses among those that stand idle, and is told whether there
    /// is room for another; `who` is the principal, if it comes to waiting.
    pub fn claim(
        &self,
        who: impl FnOnce() -> Arc<str>,
        wish: T::Wish,
        find: impl FnOnce(&[Idle<T>], bool) -> Option<usize>,
    ) -> Claimed<T> {
        let Inner { room, id, door, desk } = &*self.0;
        let mut state = room.state.lock();
        let may_grow = state.member(*id).is_some_and(|member| state.may_grow(member));
        let free = may_grow && state.open < state.size;
        {
            let mut desk = desk.lock();
            if let Some(at) = find(&desk.idle, free).filter(|at| *at < desk.idle.len()) {
                return Claimed::Now(Grant::Connection(desk.idle.remove(at)));
            }
        }
        if free {
            state.take(*door);
            return Claimed::Now(Grant::Seat(Seat { room: room.clone(), door: *door, spent: false }));
        }
        if let Some(closing) = state.evict((!may_grow).then_some(*door), *door) {
            return Claimed::InPlaceOf(closing);
        }
        let (to, grant) = oneshot::channel();
        let who = who();
        let ticket = desk.lock().line.join(&who, Waiter { wish, to });
        Claimed::Later(InLine { tenant: self.clone(), who, ticket, grant })
    }

    /// Takes a connection back that may be used again: for the next one who waits, or to stand idle.
    pub fn keep(&self, mut conn: Box<T>, mut seat: Seat) {
        let Inner { room, id, door, desk } = &*self.0;
        let mut state = room.state.lock();
        if state.open > state.size {
            drop(state);
            return close(conn, seat, None);
        }
        loop {
            let Some((next, to, other)) = state.next(Some(*door)) else {
                let mut desk = desk.lock();
                let since = conn.idle_since();
                let at = desk.idle.partition_point(|other| other.conn.idle_since() <= since);
                return desk.idle.insert(at, Idle { conn, seat });
            };
            if next != *id {
                let taker = other.taker();
                state.pass(&mut seat, to);
                drop(state);
                return close(conn, seat, taker);
            }
            let Some(waiter) = desk.lock().line.next() else { continue };
            if !conn.fits(&waiter.wish) {
                drop(state);
                return close(conn, seat, Some(taker(waiter)));
            }
            match waiter.to.send(Grant::Connection(Idle { conn, seat })) {
                // Who has gone gets nothing.
                Err(Grant::Connection(back)) => Idle { conn, seat } = back,
                Ok(()) | Err(Grant::Seat(_)) => return,
            }
        }
    }

    /// Takes all that stand idle, to look after them.
    pub fn take_idle(&self) -> Vec<Idle<T>> {
        let _state = self.0.room.state.lock();
        std::mem::take(&mut self.0.desk.lock().idle)
    }

    /// Takes the one that has stood idle longest, if it is such.
    pub fn take_oldest(&self, such: impl FnOnce(&T) -> bool) -> Option<Idle<T>> {
        let _state = self.0.room.state.lock();
        let mut desk = self.0.desk.lock();
        desk.idle.first().is_some_and(|oldest| such(&oldest.conn)).then(|| desk.idle.remove(0))
    }

    /// What its door is doing.
    pub fn counts(&self) -> Counts {
        let Inner { room, id, door, desk } = &*self.0;
        let state = room.state.lock();
        let idle_of = |of: Option<usize>| {
            let those = state.members.iter().filter(|member| of.is_none_or(|door| member.door == door));
            those.map(|member| member.desk.idle()).sum::<usize>()
        };
        let idle = idle_of(Some(*door));
        let in_use = state.held(*door).saturating_sub(idle);
        let limit = state.member(*id).map_or(0, |member| state.limit(member));
        let free = (state.size.saturating_add(idle_of(None))).saturating_sub(state.open);
        let free = free.min(limit.saturating_sub(in_use));
        let waiting = desk.lock().line.len();
        Counts { size: state.size, idle, in_use, waiting, free }
    }
}

impl<T: Seated> Clone for Tenant<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Seated> Drop for Inner<T> {
    fn drop(&mut self) {
        let mut state = self.room.state.lock();
        state.members.retain(|member| member.id != self.id);
        let idle = std::mem::take(&mut self.desk.lock().idle);
        // A door that is alone from now on has all places.
        self.room.serve(&mut state);
        drop(state);
        idle.into_iter().for_each(Idle::end);
    }
}

impl<T: Seated> InLine<T> {
    /// Waits until it is its turn. `None` when that will never be.
    pub async fn granted(&mut self) -> Option<Grant<T>> {
        (&mut self.grant).await.ok()
    }

    /// The same, for so long at most.
    pub async fn granted_within(mut self, wait_max: Duration) -> Option<Grant<T>> {
        match timeout(wait_max, self.granted()).await {
            Ok(grant) => grant,
            // It may have come in the last moment.
            Err(_) => self.last_moment(),
        }
    }

    /// Leaves the line, with what has come all the same.
    fn last_moment(&mut self) -> Option<Grant<T>> {
        let inner = &*self.tenant.0;
        let state = inner.room.state.lock();
        let left = inner.desk.lock().line.leave(&self.who, self.ticket);
        drop(state);
        drop(left);
        self.grant.try_recv().ok()
    }
}

impl<T: Seated> Drop for InLine<T> {
    fn drop(&mut self) {
        if let Some(Grant::Connection(Idle { conn, seat })) = self.last_moment() {
            self.tenant.keep(conn, seat);
        }
    }
}

impl<T: Seated> AnyDesk for Mutex<Desk<T>> {
    fn waiting(&self) -> usize {
        self.lock().line.len()
    }

    fn idle(&self) -> usize {
        self.lock().idle.len()
    }

    fn oldest(&self) -> Option<Instant> {
        self.lock().idle.first().map(|oldest| oldest.conn.idle_since())
    }

    fn evict(&self, to: usize) -> Option<BoxFuture<'static, Seat>> {
        let mut desk = self.lock();
        if desk.idle.is_empty() {
            return None;
        }
        let Idle { conn, mut seat } = desk.idle.remove(0);
        seat.door = to;
        Some(Box::pin(async move {
            conn.close().await;
            seat
        }))
    }

    fn offer(&self, mut seat: Seat) -> Result<(), Seat> {
        let mut desk = self.lock();
        while let Some(waiter) = desk.line.next() {
            match waiter.to.send(Grant::Seat(seat)) {
                // Who has gone gets nothing: the seat is the next one's.
                Err(Grant::Seat(back)) => seat = back,
                Ok(()) | Err(Grant::Connection(_)) => return Ok(()),
            }
        }
        Err(seat)
    }

    fn taker(&self) -> Option<Taker> {
        self.lock().line.next().map(taker)
    }
}

/// Gives somebody a seat later.
fn taker<T: Seated>(waiter: Waiter<T>) -> Taker {
    Box::new(|seat| match waiter.to.send(Grant::Seat(seat)) {
        Err(Grant::Seat(back)) => Some(back),
        Ok(()) | Err(Grant::Connection(_)) => None,
    })
}

/// Closes a connection. Its seat is then for whoever takes it, or for the next one.
fn close<T: Seated>(conn: Box<T>, seat: Seat, taker: Option<Taker>) {
    in_background(async move {
        conn.close().await;
        match taker {
            Some(taker) => drop(taker(seat)),
            None => drop(seat),
        }
    });
}

/// Each such task holds a place, so they are bounded. Without a runtime, what it holds is dropped.
fn in_background(task: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(task);
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, open) = self.places();
        f.debug_struct("Room").field("size", &size).field("open", &open).finish()
    }
}

impl<T: Seated> fmt::Debug for Tenant<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tenant").field(&self.counts()).finish()
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").finish_non_exhaustive()
    }
}

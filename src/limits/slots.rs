//! Things by number, of which a copy is cheap.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The numbers in one piece.
const PIECE: u32 = 64;

/// Things by number. Numbers may be sparse, but neighbours are kept together; a copy shares all pieces that
/// do not change afterwards.
#[derive(Clone, Debug)]
pub(super) struct Slots<T> {
    pieces: BTreeMap<u32, Arc<Piece<T>>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Piece<T> {
    things: [Option<T>; PIECE as usize],
    len: u32,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { pieces: BTreeMap::new(), len: 0 }
    }
}

fn place(number: u32) -> (u32, usize) {
    (number / PIECE, (number % PIECE) as usize)
}

impl<T: Clone> Slots<T> {
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        let (piece, at) = place(number);
        self.pieces.get(&piece)?.things[at].as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let (piece, at) = place(number);
        Arc::make_mut(self.pieces.get_mut(&piece)?).things[at].as_mut()
    }

    pub(super) fn insert(&mut self, number: u32, thing: T) {
        let (piece, at) = place(number);
        let empty = || Arc::new(Piece { things: [const { None }; PIECE as usize], len: 0 });
        let piece = Arc::make_mut(self.pieces.entry(piece).or_insert_with(empty));
        if piece.things[at].replace(thing).is_none() {
            piece.len += 1;
            self.len += 1;
        }
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let (at_piece, at) = place(number);
        let piece = Arc::make_mut(self.pieces.get_mut(&at_piece)?);
        let thing = piece.things[at].take()?;
        piece.len -= 1;
        self.len -= 1;
        if piece.len == 0 {
            self.pieces.remove(&at_piece);
        }
        Some(thing)
    }

    /// The number of things.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All things, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.pieces.iter().flat_map(|(piece, things)| {
            let numbers = piece * PIECE..;
            numbers
                .zip(&things.things)
                .filter_map(|(number, thing)| Some((number, thing.as_ref()?)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slots_behave_as_a_map_and_copies_stay(
            steps in prop::collection::vec((0..300_u32, any::<bool>(), any::<bool>()), 0..200),
        ) {
            let (mut slots, mut map) = (Slots::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for (step, (number, adds, copies_now)) in steps.into_iter().enumerate() {
                if adds {
                    slots.insert(number, step);
                    map.insert(number, step);
                } else {
                    prop_assert_eq!(slots.get(number), map.get(&number));
                    prop_assert_eq!(slots.remove(number), map.remove(&number));
                }
                if let Some(thing) = slots.get_mut(number) {
                    *thing += 1;
                    *map.get_mut(&number).expect("it is there") += 1;
                }
                if copies_now {
                    copies.push((slots.clone(), map.clone()));
                }
            }
            copies.push((slots, map));
            for (slots, map) in copies {
                prop_assert_eq!(slots.len(), map.len());
                prop_assert!(slots.iter().eq(map.iter().map(|(number, thing)| (*number, thing))));
                let pieces: BTreeSet<u32> = map.keys().map(|number| number / PIECE).collect();
                prop_assert_eq!(slots.pieces.len(), pieces.len());
            }
        }
    }
}

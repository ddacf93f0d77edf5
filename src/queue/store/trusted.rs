//! The configuration of agents that a human knows of, by repository (T16).

use rusqlite::params;

use super::{Store, StoreError, Tx, micros};
use crate::assign::inventory::Item;

impl Tx<'_> {
    /// Notes that a human knows of these, and that the place was looked at.
    pub fn trust(&mut self, place: &str, items: &[Item]) -> Result<(), StoreError> {
        let mut insert = self.conn.prepare_cached(
            "INSERT INTO trusted (place, path, hash, since_us) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )?;
        insert.execute(params![place, "", "", micros(self.now)])?;
        for item in items {
            insert.execute(params![place, item.path, item.hash, micros(self.now)])?;
        }
        Ok(())
    }
}

impl Store {
    /// Notes what a human knows of; see [`Tx::trust`].
    pub async fn trust(&self, place: &str, items: Vec<Item>) -> Result<(), StoreError> {
        let place = place.to_owned();
        self.write(move |tx| tx.trust(&place, &items)).await
    }

    /// What a human knows of in a place; none where it was never looked at.
    pub async fn trusted(&self, place: &str) -> Result<Option<Vec<Item>>, StoreError> {
        let place = place.to_owned();
        self.read(move |conn| {
            let mut select =
                conn.prepare_cached("SELECT path, hash FROM trusted WHERE place = ? ORDER BY path, hash")?;
            let rows = select.query_map([place], |r| Ok(Item { path: r.get(0)?, hash: r.get(1)? }))?;
            let all = rows.collect::<Result<Vec<_>, _>>()?;
            Ok((!all.is_empty()).then(|| all.into_iter().filter(|item| !item.path.is_empty()).collect()))
        })
        .await
    }
}

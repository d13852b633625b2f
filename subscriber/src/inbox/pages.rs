//! An inbox from its newest row to its oldest, a page at a time.

use super::{Inbox, InboxError, InboxRow, ListFilter};

/// The pages of a listing.
#[derive(Debug, Clone)]
pub struct Pages {
    filter: ListFilter,
    is_over: bool,
}

impl Pages {
    /// `filter.most` rows are a page, which is not 0.
    #[must_use]
    pub fn new(filter: ListFilter) -> Self {
        Self { filter, is_over: false }
    }

    /// `None` after the last.
    ///
    /// # Errors
    /// [`InboxError`].
    ///
    /// # Cancel safety
    /// Cancel-safe: the page of a call that was dropped is that of the next one.
    pub async fn next(&mut self, inbox: &impl Inbox) -> Result<Option<Vec<InboxRow>>, InboxError> {
        if self.is_over {
            return Ok(None);
        }
        let rows = inbox.list(&self.filter).await?;
        self.filter.before = rows.last().map(|row| row.id);
        self.is_over = rows.len() < self.filter.most as usize;
        Ok(Some(rows))
    }
}

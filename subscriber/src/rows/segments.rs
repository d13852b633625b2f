//! Segments of a file decoded on several processors at once; their rows go on in the file's order.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinHandle};
use waybill_formats::{
    SegmentDecoder,
    seek::{Doubt, Part, SegmentRows},
};

use super::{Chunk, Group, Grouping, Pool};
use crate::tasks::outcome;

/// What decoding by segments came to.
pub(super) enum Segments {
    /// As [`Decoded::Over`](super::Decoded::Over).
    Over,
    /// As [`Decoded::Doubt`](super::Decoded::Doubt).
    Doubt { to: u64 },
    /// The file has none. This was fed, and is all of it if `ended`.
    Ordinary { fed: Vec<Bytes>, ended: bool },
}

/// Why it ends before the file does.
enum Stop {
    Doubt,
    NobodyListens,
}

impl From<Doubt> for Stop {
    fn from(_: Doubt) -> Self {
        Self::Doubt
    }
}

/// Decodes what comes through `chunks`.
pub(super) async fn decode(
    decoder: SegmentDecoder,
    grouping: Grouping,
    pool: &Pool,
    chunks: &mut mpsc::Receiver<Chunk>,
    groups: &mpsc::Sender<Group>,
) -> Segments {
    let to = grouping.from;
    let mut work = Work { decoder, running: VecDeque::new(), grouping, to, groups };
    let mut ended = false;
    loop {
        // One more than there are processors: while the first is waited for, each of them has work.
        let part = if work.running.len() > pool.size { Ok(Part::NeedRows) } else { work.decoder.next() };
        let done = match part {
            Ok(Part::Job(job)) => {
                let pool = pool.clone();
                // It waits for its place where it will work: that wakes nobody else.
                work.running.push_back(tokio::task::spawn_blocking(move || pool.with_place(|| job.decode())));
                Ok(())
            }
            Ok(Part::NeedInput) => {
                let is_running = !work.running.is_empty();
                tokio::select! {
                    biased;
                    rows = first(&mut work.running), if is_running => match rows {
                        Some(rows) => work.take(rows).await,
                        None => return Segments::Over,
                    },
                    chunk = chunks.recv(), if !ended => match chunk {
                        Some(Chunk::Bytes(bytes)) => {
                            work.decoder.feed(bytes);
                            Ok(())
                        }
                        Some(Chunk::End) => {
                            ended = true;
                            Ok(())
                        }
                        None => return Segments::Over,
                    },
                    // Shorter than it is said to be.
                    else => Err(Stop::Doubt),
                }
            }
            Ok(Part::NeedRows) => {
                let Some(rows) = first(&mut work.running).await else { return Segments::Over };
                work.take(rows).await
            }
            Ok(Part::Done(stats)) => {
                work.grouping.end(stats);
                // An error here means that the sink failed and will say so itself.
                let _nobody_listens = work.hand_on().await;
                return Segments::Over;
            }
            Ok(Part::Ordinary(fed)) => return Segments::Ordinary { fed, ended },
            Err(doubt) => Err(doubt.into()),
        };
        match done {
            Ok(()) => {}
            Err(Stop::Doubt) => return Segments::Doubt { to: work.to },
            Err(Stop::NobodyListens) => return Segments::Over,
        }
    }
}

struct Work<'g> {
    decoder: SegmentDecoder,
    /// In the order of the segments.
    running: VecDeque<JoinHandle<SegmentRows>>,
    grouping: Grouping,
    /// The last row that was handed on.
    to: u64,
    groups: &'g mpsc::Sender<Group>,
}

impl Work<'_> {
    /// Takes what the first job came to, and hands on the groups that are full.
    async fn take(&mut self, rows: SegmentRows) -> Result<(), Stop> {
        for batch in self.decoder.put(rows)? {
            if self.grouping.add(&batch) {
                self.hand_on().await?;
            }
        }
        self.grouping.passed(self.decoder.checkpoint());
        Ok(())
    }

    async fn hand_on(&mut self) -> Result<(), Stop> {
        let group = self.grouping.take();
        self.to = group.to.max(self.to);
        self.groups.send(group).await.map_err(|_| Stop::NobodyListens)
    }
}

/// What the first job came to. There is one. `None` when the runtime is shutting down.
async fn first(running: &mut VecDeque<JoinHandle<SegmentRows>>) -> Option<SegmentRows> {
    let first = running.front_mut().expect("a job is under way");
    let rows = outcome(first.await);
    running.pop_front();
    rows
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use waybill_contracts::Reason;
    use waybill_formats::{
        Compression, DecodeError, DecodeOptions, Field, FileStats, RowWriter, Source, WriterOptions,
        gzip::index::{Look, look},
    };

    use super::super::{CHUNKS_QUEUED, Decoded, GROUPS_QUEUED, GroupLimits, Way, decode};
    use super::*;

    const ROWS: u64 = 250_000;

    fn file() -> Vec<u8> {
        let mut writer = RowWriter::new(WriterOptions::JsonLines, Compression::Gzip(1));
        for n in 1..=ROWS {
            let value = n.wrapping_mul(n).to_string();
            writer.row(&[("n", Field::Number(&n.to_string())), ("square", Field::Number(&value))]).unwrap();
        }
        let stored = writer.finish().rest.to_vec();
        let Look::Index(index) = look(&stored, stored.len() as u64) else { panic!("it has an index") };
        assert!(index.entries.len() > 5);
        stored
    }

    fn by_segments(stored: &[u8]) -> Way {
        Way::BySegments(stored.len() as u64)
    }

    /// What decoding came to, the rows of each group, and the end that was handed on.
    async fn decoded(
        stored: &[u8],
        from: u64,
        way: Way,
    ) -> (Result<Decoded, DecodeError>, Vec<(u64, u64)>, Option<FileStats>) {
        let (chunk_to, chunk_from) = mpsc::channel(CHUNKS_QUEUED);
        let (group_to, mut group_from) = mpsc::channel(GROUPS_QUEUED);
        let grouping = Grouping::new(from, GroupLimits { rows_max: 30_000, bytes_max: 4 << 20 });
        let options = DecodeOptions::new(Source::JsonLines);
        let decoding = decode(options, way, grouping, Pool::new(3), chunk_from, group_to);
        let feeding = async {
            for chunk in stored.chunks(30_000) {
                if chunk_to.send(Chunk::Bytes(Bytes::copy_from_slice(chunk))).await.is_err() {
                    return;
                }
            }
            let _gone = chunk_to.send(Chunk::End).await;
        };
        let taking = async {
            let (mut groups, mut end, mut last) = (Vec::new(), None, from);
            while let Some(group) = group_from.recv().await {
                for batch in &group.batches {
                    assert_eq!(batch.first_row(), last + 1, "in order");
                    last = batch.last_row();
                    for row in batch.rows() {
                        let n = row.number();
                        let expected = format!("{{\"n\":{n},\"square\":{}}}", n.wrapping_mul(n));
                        assert_eq!(row.raw(), expected.as_bytes());
                    }
                }
                groups.push((group.to, group.rows));
                end = end.or(group.end);
            }
            (groups, end)
        };
        let (decoded, (), (groups, end)) = tokio::join!(decoding, feeding, taking);
        (decoded, groups, end)
    }

    /// Makes an entry of the index longer by what it makes the next one shorter.
    fn forged(stored: &[u8], entry: usize) -> Vec<u8> {
        let mut forged = stored.to_vec();
        // Every entry: stored and plain bytes, each three bytes, and rows, two or three.
        let mut at = 18;
        let mut places = Vec::new();
        for _ in 0..entry + 2 {
            places.push(at);
            for _ in 0..3 {
                while forged[at] & 0x80 != 0 {
                    at += 1;
                }
                at += 1;
            }
        }
        let (one, next) = (places[entry], places[entry + 1]);
        let by = (forged[next] & 0x7f).min(0x7f - (forged[one] & 0x7f));
        assert!(by > 0, "another file is needed");
        (forged[one], forged[next]) = (forged[one] + by, forged[next] - by);
        let Look::Index(_) = look(&forged, forged.len() as u64) else { panic!("its sum is still right") };
        forged
    }

    #[tokio::test]
    async fn rows_of_segments_come_in_order_and_from_any_row_on() {
        let stored = file();
        for from in [0, 1, 100_000, ROWS - 1, ROWS] {
            let (in_one_go, _, end) = decoded(&stored, from, Way::InOneGo).await;
            let (beside, groups, beside_end) = decoded(&stored, from, by_segments(&stored)).await;
            assert_eq!((in_one_go.unwrap(), beside.unwrap()), (Decoded::Over, Decoded::Over));
            assert_eq!(beside_end, end);
            assert_eq!(end.unwrap().rows, ROWS);
            assert_eq!(groups.iter().map(|group| group.1).sum::<u64>(), ROWS - from);
            assert!(groups.iter().all(|group| group.1 < 200_000), "groups stay small: {groups:?}");
        }
    }

    #[tokio::test]
    async fn a_false_index_is_a_doubt_after_the_rows_that_are_right() {
        let stored = file();
        for entry in [0, 3] {
            let forged = forged(&stored, entry);
            let (decoded_so, groups, end) = decoded(&forged, 0, by_segments(&forged)).await;
            let to = groups.last().map_or(0, |group| group.0);
            assert_eq!((decoded_so.unwrap(), end), (Decoded::Doubt { to }, None));
            assert_eq!(entry > 0, to > 0, "{groups:?}");
            // In the ordinary way it is a good file.
            let (rest, groups, end) = decoded(&forged, to, Way::InOneGo).await;
            assert_eq!(rest.unwrap(), Decoded::Over);
            assert_eq!(groups.iter().map(|group| group.1).sum::<u64>(), ROWS - to);
            assert_eq!(end.unwrap().rows, ROWS);
        }
    }

    #[tokio::test]
    async fn damage_is_a_doubt_and_is_told_by_reading_in_the_ordinary_way() {
        let mut stored = file();
        let at = stored.len() - 6;
        stored[at] ^= 1;
        let (beside, groups, end) = decoded(&stored, 0, by_segments(&stored)).await;
        let to = groups.last().map_or(0, |group| group.0);
        assert_eq!((beside.unwrap(), end), (Decoded::Doubt { to }, None));
        assert!(to < ROWS, "nothing of the last segment went on before the checksum was compared");
        let (in_one_go, ..) = decoded(&stored, to, Way::InOneGo).await;
        assert_eq!(in_one_go.unwrap_err().reason, Reason::CorruptGzip);
    }

    #[tokio::test]
    async fn a_file_without_segments_is_read_in_the_ordinary_way() {
        let mut writer = RowWriter::new(WriterOptions::JsonLines, Compression::Gzip(1));
        writer.row(&[("n", Field::Number("1")), ("square", Field::Number("1"))]).unwrap();
        for compressed in [writer.finish().rest.to_vec(), b"{\"n\":1,\"square\":1}\n".to_vec()] {
            let (decoded, groups, end) = decoded(&compressed, 0, by_segments(&compressed)).await;
            assert_eq!((decoded.unwrap(), groups, end.unwrap().rows), (Decoded::Over, vec![(1, 1)], 1));
        }
        let (decoded, groups, end) = decoded(b"", 0, by_segments(b"")).await;
        assert_eq!((decoded.unwrap(), groups, end.unwrap().rows), (Decoded::Over, vec![(0, 0)], 0));
    }

    #[test]
    fn files_are_read_beside_each_other_however_few_threads_the_runtime_has() {
        let one_thread = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
        let stored = file();
        assert!(stored.len() > 4 * (128 << 10), "long enough for two threads");
        one_thread.unwrap().block_on(async {
            let files = [Way::InOneGo, Way::InOneGo, by_segments(&stored), by_segments(&stored)];
            for (read, _, end) in join_all(files.map(|way| decoded(&stored, 0, way))).await {
                assert_eq!((read.unwrap(), end.unwrap().rows), (Decoded::Over, ROWS));
            }
        });
    }

    #[tokio::test]
    async fn a_download_that_is_cut_is_over_without_an_end() {
        let stored = file();
        let (chunk_to, chunk_from) = mpsc::channel(CHUNKS_QUEUED);
        let (group_to, mut group_from) = mpsc::channel(GROUPS_QUEUED);
        let grouping = Grouping::new(0, GroupLimits { rows_max: 30_000, bytes_max: 4 << 20 });
        let options = DecodeOptions::new(Source::JsonLines);
        let decoding = decode(options, by_segments(&stored), grouping, Pool::new(2), chunk_from, group_to);
        let feeding = async move {
            let half = Bytes::copy_from_slice(&stored[..stored.len() / 2]);
            chunk_to.send(Chunk::Bytes(half)).await.unwrap();
        };
        let taking = async {
            while let Some(group) = group_from.recv().await {
                assert!(group.end.is_none());
            }
        };
        let (decoded, (), ()) = tokio::join!(decoding, feeding, taking);
        assert_eq!(decoded.unwrap(), Decoded::Over);
    }
}

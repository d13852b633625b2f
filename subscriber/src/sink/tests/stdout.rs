//! Rows on standard output.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use super::world::{batch, csv, json_lines};
use crate::{
    FileKey,
    apply::{EntityPlans, Position},
    sink::{Applied, EntityBatch, Progress, Sink, SinkError, StdoutSink},
};

#[derive(Clone, Default)]
struct Out(Arc<Mutex<(Vec<u8>, Option<io::ErrorKind>)>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut inside = self.0.lock().unwrap();
        match inside.1 {
            Some(kind) => Err(kind.into()),
            None => inside.0.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Out {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
    }
}

fn file(rows: Vec<waybill_formats::RowBatch>) -> EntityBatch {
    batch(&EntityPlans::default(), "T", Position::Broker { sequence_number: 1 }, rows)
}

#[tokio::test]
async fn each_row_is_a_line_of_json_whatever_its_format() {
    let (folder, out) = (tempfile::tempdir().unwrap(), Out::default());
    let sink = StdoutSink::open_with(&folder.path().join("progress"), out.clone()).await.unwrap();
    let applied = sink.apply(&FileKey::of_export("", "1"), 0, file(csv("a,b\n1,\"x\ny\"\n2,\n"))).await.unwrap();
    assert_eq!(applied, Applied { inserted: 2, ..Applied::default() });
    let applied =
        sink.apply(&FileKey::of_export("", "2"), 0, file(json_lines("{\"n\":19.90}\nnot a row\n"))).await.unwrap();
    assert_eq!(applied, Applied { inserted: 1, bad: 1, ..Applied::default() });
    assert_eq!(out.text(), "{\"a\":\"1\",\"b\":\"x\\ny\"}\n{\"a\":\"2\",\"b\":null}\n{\"n\":19.90}\n");
}

#[tokio::test]
async fn a_reader_that_went_away_ends_the_work_and_loses_no_row() {
    let (folder, out, key) = (tempfile::tempdir().unwrap(), Out::default(), FileKey::of_export("", "1"));
    let sink = StdoutSink::open_with(&folder.path().join("progress"), out.clone()).await.unwrap();
    out.0.lock().unwrap().1 = Some(io::ErrorKind::BrokenPipe);
    let result = sink.apply(&key, 0, file(json_lines("{\"n\":1}\n"))).await;
    assert!(matches!(result, Err(SinkError::Unavailable { .. })), "{result:?}");
    assert!(sink.closed().is_cancelled());
    assert_eq!(sink.progress(&key).await.unwrap(), Progress::default());

    let sink = StdoutSink::open_with(&folder.path().join("progress"), Out::default()).await.unwrap();
    assert_eq!(sink.apply(&key, 0, file(json_lines("{\"n\":1}\n"))).await.unwrap().inserted, 1);
}

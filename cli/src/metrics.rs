//! Figures as a page for Prometheus.

pub mod subscriber;

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, prometheus_text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

/// Of the page.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Of a series: names and values.
pub type Labels = Vec<(&'static str, String)>;

/// What is collected now, each name beginning with `waybill_`.
///
/// # Panics
/// When the collector fails, which a text gives no reason for.
#[must_use]
pub fn page(collector: impl Collector) -> String {
    page_of(vec![Box::new(collector)])
}

/// The same, by several collectors.
///
/// # Panics
/// As [`page`].
#[must_use]
pub fn page_of(collectors: Vec<Box<dyn Collector>>) -> String {
    // A registry for each page, so that two in one process could not share one.
    let mut registry = Registry::with_prefix("waybill");
    collectors.into_iter().for_each(|collector| registry.register_collector(collector));
    let mut page = String::new();
    prometheus_text::encode(&mut page, &registry).expect("a text takes what is written");
    page
}

/// Writes metrics.
#[derive(Debug)]
pub struct Page<'p>(DescriptorEncoder<'p>);

#[allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "a name, a text, and what is written; a text takes everything"
)]
impl<'p> Page<'p> {
    /// Writes to what a collector is given.
    #[must_use]
    pub fn new(encoder: DescriptorEncoder<'p>) -> Self {
        Self(encoder)
    }

    pub fn gauge(&mut self, name: &str, help: &str, unit: Option<Unit>, value: f64) -> fmt::Result {
        self.gauges(name, help, unit, [(Labels::new(), value)])
    }

    pub fn gauges(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        series: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in series {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    pub fn counters(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        series: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (labels, value) in series {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    /// In seconds. A bucket is its upper bound and how many are in it.
    pub fn histogram(&mut self, name: &str, help: &str, sum: f64, count: u64, buckets: &[(f64, u64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(sum, count, buckets, None)
    }
}

/// A label.
#[must_use]
pub fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

/// Two labels.
#[must_use]
pub fn labels(first: &'static str, its: &str, second: &'static str, value: &str) -> Labels {
    vec![(first, its.to_owned()), (second, value.to_owned())]
}

/// A series that begins only with its first event hides that event from a rate.
#[must_use]
pub fn with_zeros(
    known: &[&'static str],
    counted: &BTreeMap<&'static str, u64>,
    name: &'static str,
) -> Vec<(Labels, u64)> {
    known.iter().map(|value| (label(name, value), counted.get(value).copied().unwrap_or_default())).collect()
}

/// 1 while it holds.
#[must_use]
pub fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

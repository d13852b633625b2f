//! A correlation filter: each property that it states must equal the message's.

use super::FilterError;
use super::operand::Operand;
use super::view::{SystemProperty, View};
use crate::amqp::codec::Value;

/// Texts and values of one filter together.
const BYTES_MAX: usize = 16 * 1024;

/// Matches messages whose properties equal all that are stated, at least one. Texts are compared with their case, names of
/// application properties without; numbers by their value, whatever their width; a text never equals a number.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs, reason = "the names are those of a message's properties")]
pub struct CorrelationFilter {
    pub correlation_id: Option<String>,
    pub message_id: Option<String>,
    pub to: Option<String>,
    pub reply_to: Option<String>,
    /// Also called label.
    pub subject: Option<String>,
    pub session_id: Option<String>,
    pub reply_to_session_id: Option<String>,
    pub content_type: Option<String>,
    /// Application properties.
    pub properties: Vec<(String, Value)>,
}

impl CorrelationFilter {
    /// In the order in which Azure lists them.
    pub(crate) fn fields(&self) -> [(SystemProperty, Option<&str>); 8] {
        [
            (SystemProperty::CorrelationId, self.correlation_id.as_deref()),
            (SystemProperty::MessageId, self.message_id.as_deref()),
            (SystemProperty::To, self.to.as_deref()),
            (SystemProperty::ReplyTo, self.reply_to.as_deref()),
            (SystemProperty::Subject, self.subject.as_deref()),
            (SystemProperty::SessionId, self.session_id.as_deref()),
            (SystemProperty::ReplyToSessionId, self.reply_to_session_id.as_deref()),
            (SystemProperty::ContentType, self.content_type.as_deref()),
        ]
    }

    pub(super) fn check(&self) -> Result<(), FilterError> {
        let texts = self.fields().into_iter().filter_map(|(_, text)| text);
        if self.properties.is_empty() && texts.clone().next().is_none() {
            return Err(FilterError::NothingStated);
        }
        let odd = self.properties.iter().find(|(_, value)| {
            let operand = Operand::of(value);
            operand == Operand::Other || operand == Operand::Unknown
        });
        if let Some((name, _)) = odd {
            return Err(FilterError::NotComparable(name.clone()));
        }
        let size = |(name, value): &(String, Value)| name.len() + value.as_text().map_or(16, str::len);
        let bytes = texts.map(str::len).sum::<usize>() + self.properties.iter().map(size).sum::<usize>();
        if bytes > BYTES_MAX {
            return Err(FilterError::TooLarge { bytes, most: BYTES_MAX });
        }
        Ok(())
    }

    pub(super) fn matches(&self, view: &View<'_>) -> bool {
        let same = |property, text: &str| matches!(view.system(property), Operand::Text(found) if found == text);
        self.fields().into_iter().all(|(property, text)| text.is_none_or(|text| same(property, text)))
            && self
                .properties
                .iter()
                .all(|(name, value)| view.user(name).is_some_and(|found| found.is(&Operand::of(value))))
    }
}

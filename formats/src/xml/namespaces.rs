//! Which prefixes are declared where: Namespaces in XML 1.0, sections 3 to 6.

use super::XSI;

const XML: &[u8] = b"http://www.w3.org/XML/1998/namespace";
const XMLNS: &[u8] = b"http://www.w3.org/2000/xmlns/";

/// The declarations of the elements that are open.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    bound: Vec<Binding>,
    /// Their prefixes and names.
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Binding {
    /// The level of the element that declares it.
    depth: usize,
    prefix: usize,
    uri: usize,
    end: usize,
}

impl Namespaces {
    /// Declares a prefix at an element, or with an empty one the default namespace.
    ///
    /// # Errors
    /// Why it must not be declared so.
    pub(super) fn declare(&mut self, depth: usize, prefix: &[u8], uri: &[u8]) -> Result<(), &'static str> {
        match (prefix, uri) {
            (b"xmlns", _) => return Err("the prefix xmlns must not be declared"),
            (b"xml", XML) => {}
            (b"xml", _) => return Err("the prefix xml must not be bound to another namespace"),
            (_, XML) => return Err("the namespace of xml must not be bound to another prefix"),
            (_, XMLNS) => return Err("the namespace of xmlns must not be declared"),
            ([_, ..], []) => return Err("a prefix must not be bound to an empty namespace"),
            _ => {}
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(prefix);
        let uri_start = self.bytes.len();
        self.bytes.extend_from_slice(uri);
        self.bound.push(Binding { depth, prefix: start, uri: uri_start, end: self.bytes.len() });
        Ok(())
    }

    /// The namespace of a prefix, if it is declared.
    pub(super) fn resolve(&self, prefix: &[u8]) -> Option<&[u8]> {
        self.resolve_with_level(prefix).map(|(uri, _)| uri)
    }

    /// The namespace of a prefix, and the level of the element that declares it.
    pub(super) fn resolve_with_level(&self, prefix: &[u8]) -> Option<(&[u8], usize)> {
        let declared = self.bound.iter().rev().find(|binding| &self.bytes[binding.prefix..binding.uri] == prefix);
        match declared {
            Some(binding) => Some((&self.bytes[binding.uri..binding.end], binding.depth)),
            None if prefix == b"xml" => Some((XML, 0)),
            None => None,
        }
    }

    /// Forgets what an element at this level declared.
    #[inline]
    pub(super) fn close(&mut self, depth: usize) {
        while let Some(binding) = self.bound.last()
            && binding.depth >= depth
        {
            self.bytes.truncate(binding.prefix);
            self.bound.pop();
        }
    }

    /// Whether the element at this level declares any.
    pub(super) fn is_declared_at(&self, depth: usize) -> bool {
        self.bound.last().is_some_and(|binding| binding.depth >= depth)
    }

    /// How many are declared.
    pub(super) fn len(&self) -> usize {
        self.bound.len()
    }

    pub(super) fn clear(&mut self) {
        self.close(0);
    }
}

pub(super) fn is_xsi(uri: &[u8]) -> bool {
    uri == XSI.as_bytes()
}

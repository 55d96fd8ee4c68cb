"""Model references, the catalogue of bases, prompt formats, the embedded model."""

"""What several tests share: fresh databases, settings for the test servers, and looking at processes."""

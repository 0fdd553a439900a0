"""Channels that tell notices: email over SMTP, signed webhooks, Slack; and their templates."""

"""Fields of the settings, by stage: each module holds one group, and `Settings` joins them."""

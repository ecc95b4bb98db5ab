"""What runs on a card, shown without one: values, devices and waits of every stage."""

"""The conversations of `kvcache demo`."""

SYSTEM = (
    "You are a friendly and cheerful guide who answers questions from curious "
    "people of all ages. You explain things in plain words, you give one small "
    "example where it helps, and you keep every answer short: two or three "
    "sentences, never more. If you do not know something, you say so kindly."
)
"""What the system says at the start of each conversation."""

CONVERSATIONS: tuple[tuple[str, tuple[str, str]], ...] = (
    (
        "Ada",
        (
            "Why is the sky blue during the day?",
            "And why does it turn red in the evening?",
        ),
    ),
    (
        "Ben",
        (
            "What is the capital of France, and what is it known for?",
            "Which food should I try when I visit?",
        ),
    ),
    (
        "Chloe",
        (
            "How do bees make honey?",
            "Why are bees important for gardens?",
        ),
    ),
    (
        "Diego",
        (
            "Can you give me a simple idea for a quick breakfast?",
            "What could I drink with it?",
        ),
    ),
    (
        "Emi",
        (
            "Please write two lines of a poem about the ocean.",
            "Now write two lines about the moon.",
        ),
    ),
    (
        "Farid",
        (
            "What is gravity?",
            "Does the Moon have gravity too?",
        ),
    ),
    (
        "Greta",
        (
            "How can I fall asleep more easily?",
            "Is it good to read a book before bed?",
        ),
    ),
    (
        "Hugo",
        (
            "What is a computer program?",
            "How can a beginner start to learn programming?",
        ),
    ),
)
"""A name and two questions for each conversation."""

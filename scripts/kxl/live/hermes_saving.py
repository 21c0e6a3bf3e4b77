"""A program, not a module: Hermes's own command line, whose agent also keeps the conversation as a ShareGPT row.

  HERMES_PYTHON -I hermes_saving.py -z PROMPT ...

The row is appended to trajectory_samples.jsonl in the current folder; the command line has no switch for that.
"""

if __name__ == "__main__":
    import run_agent

    class Saving(run_agent.AIAgent):
        def __init__(self, *args, **options):
            super().__init__(*args, **{**options, "save_trajectories": True})

    run_agent.AIAgent = Saving
    from hermes_cli.main import main

    main()

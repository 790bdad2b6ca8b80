"""Specs of instances, from their entries, their classes and their host."""

from __future__ import annotations

from hostmanager_server.config.document import LINES_PER_FILE
from hostmanager_server.config.environment_keys import read_env_file_digest
from hostmanager_server.config.node_reader import Reader, shown
from hostmanager_server.config.read_entry import ParseContext, ReadInstance
from hostmanager_server.config.shared_values import shared
from hostmanager_server.core.spec import (
    START_TIMEOUT,
    UP_AFTER,
    EnvFile,
    InstanceSpec,
    LogPolicy,
    Management,
    ProcessSpec,
    RestartPolicy,
)


def make_spec(reader: Reader, instance: ReadInstance, context: ParseContext) -> InstanceSpec:
    """Return the spec of a managed instance."""
    assert instance.manage is not None
    management, target = instance.manage
    settings = instance.settings
    process = _process(reader, instance, context) if management is Management.HOST else None
    log = LogPolicy()
    return InstanceSpec(
        instance_id=instance.instance_id,
        agent_class=instance.agent_class,
        management=management,
        initial_target=target,
        process=process,
        # The compose files, read later, tell which service the instance has, if any.
        problem=""
        if process or management is Management.DOCKER
        else context.launchers.unknown(instance.agent_class),
        ready=settings.ready,
        log=shared(
            LogPolicy(
                context.log_dir,
                log.size if settings.log.size is None else settings.log.size,
                log.keep if settings.log.keep is None else settings.log.keep,
                "" if process is None else process.user,
            )
        ),
        start_timeout=START_TIMEOUT if settings.start_timeout is None else settings.start_timeout,
        up_after=UP_AFTER if settings.up_after is None else settings.up_after,
        stop=shared(settings.stop),
        restart=shared(settings.restart or RestartPolicy()),
        depends_on=tuple(dependency.instance_id for dependency in settings.depends_on or ()),
        conditions=tuple(
            (dependency.instance_id, dependency.condition)
            for dependency in settings.depends_on or ()
            if dependency.condition is not None
        ),
        restart_dependents=bool(settings.restart_dependents),
        alive=settings.alive,
        run_arguments=bool(settings.run_arguments),
        schedule=settings.schedule,
        restart_above=settings.restart_above if management is Management.HOST else None,
        success_codes=settings.success_codes or (),
        on_failure=settings.on_failure or context.hooks.on_failure,
        on_recover=settings.on_recover or context.hooks.on_recover,
        labels=tuple(sorted({**dict(context.labels), **settings.labels}.items())),
    )


def _process(reader: Reader, instance: ReadInstance, context: ParseContext) -> ProcessSpec | None:
    arguments = [word.text for word in instance.arguments]
    launchers = context.launchers
    command = launchers.find(
        context.host, instance.instance_id, instance.agent_class, instance.own.command, arguments
    )
    if command is None:
        return None
    if command.source == "ocs" and (why := _why_unknown_to_ocs(reader, instance)):
        text = f"instance {shown(instance.instance_id)} cannot start: OCS's launcher finds no {why}"
        reader.warn(instance.class_node, f"{text}; give the instance a 'command'")
    settings = instance.settings
    return ProcessSpec(
        argv=command.argv,
        source=command.source,
        env=tuple(sorted(settings.env.items())),
        working_dir=settings.working_dir or str(launchers.working_dir),
        user=settings.user or "",
        limits=tuple(sorted(settings.limits.items())),
        env_files=digested_files(reader, instance, context),
        env_inherit=context.env_inherit if settings.env_inherit is None else settings.env_inherit,
        group=settings.group or "",
        umask=settings.umask,
        nice=settings.nice,
        memory=settings.memory,
    )


def _why_unknown_to_ocs(reader: Reader, instance: ReadInstance) -> str:
    """Return what keeps OCS, which reads the site config by its own rules, from finding an instance."""
    if instance.is_copy:
        return "copies ('instances')"
    included = instance.class_node.line >= LINES_PER_FILE
    return f"entries of included files, only those of {reader.file}" if included else ""


def digested_files(reader: Reader, instance: ReadInstance, context: ParseContext) -> tuple[EnvFile, ...]:
    """Return the files, with digests of their content if the host is this machine."""
    files = instance.settings.env_files
    if not context.local:
        return tuple(EnvFile(file.path, optional=file.optional) for file in files)
    user = reader.machine.user_number(instance.settings.user or "") if files else None
    label = f"instance {shown(instance.instance_id)}"
    return tuple(read_env_file_digest(reader, file, user, label) for file in files)

# Stands in for rabbitmq:4-management.
ARG DEBIAN_IMAGE
FROM ${DEBIAN_IMAGE}
RUN apt-get update && \
    apt-get install --yes --no-install-recommends rabbitmq-server && \
    rm -rf /var/lib/apt/lists/* && \
    ln -s /usr/lib/rabbitmq/lib/rabbitmq_server-* /usr/lib/rabbitmq/home && \
    mkdir -p /etc/rabbitmq/conf.d && \
    echo "[rabbitmq_management,rabbitmq_prometheus]." > /etc/rabbitmq/enabled_plugins && \
    chown -R rabbitmq:rabbitmq /etc/rabbitmq /var/lib/rabbitmq
# The scripts of /usr/sbin insist on root, and keep the log to themselves.
ENV PATH=/usr/lib/rabbitmq/home/sbin:$PATH LANG=C.UTF-8 HOME=/var/lib/rabbitmq RABBITMQ_LOGS=- \
    PLUGINS_DIR=/usr/lib/rabbitmq/home/plugins RABBITMQ_CONFIG_FILES=/etc/rabbitmq/conf.d
VOLUME /var/lib/rabbitmq
USER rabbitmq
EXPOSE 5672 15672 15692
CMD ["rabbitmq-server"]

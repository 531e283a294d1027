/* One participant of Cyclone DDS with the keys of one enclave, as rmw_cyclonedds_cpp sets it up.

   dds_security ENCLAVE_FOLDER DOMAIN PLUGIN_FOLDER   ("-" as folder: a participant without security)

   Reads lines from stdin and answers each with one line:
     pub TOPIC    may it write?    allowed | refused
     sub TOPIC    may it read?     allowed | refused
     send TOPIC   write a sample once a reader is matched, for at most 10 s: sent | unmatched | refused
     take TOPIC SECONDS   read what arrives within that time: the number of samples | refused          */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dds/dds.h"
#include "sample.h"

static dds_entity_t participant;
static dds_qos_t *reliable;

static dds_entity_t topic_of (const char *name)
{
  return dds_create_topic (participant, &peers_Sample_desc, name, reliable, NULL);
}

static dds_entity_t writer_of (const char *name)
{
  const dds_entity_t topic = topic_of (name);
  return topic < 0 ? topic : dds_create_writer (participant, topic, reliable, NULL);
}

static dds_entity_t reader_of (const char *name)
{
  const dds_entity_t topic = topic_of (name);
  return topic < 0 ? topic : dds_create_reader (participant, topic, reliable, NULL);
}

static const char *verdict (dds_entity_t made)
{
  if (made >= 0)
  {
    dds_delete (made);
    return "allowed";
  }
  return made == DDS_RETCODE_NOT_ALLOWED_BY_SECURITY ? "refused" : dds_strretcode (made);
}

static const char *send_one (const char *name)
{
  const dds_entity_t writer = writer_of (name);
  if (writer < 0)
    return verdict (writer);
  dds_publication_matched_status_t matched = { 0 };
  for (int wait = 0; wait < 100 && matched.current_count == 0; wait++)
  {
    dds_sleepfor (DDS_MSECS (100));
    dds_get_publication_matched_status (writer, &matched);
  }
  peers_Sample sample = { 7 };
  if (matched.current_count > 0)
    dds_write (writer, &sample);
  dds_wait_for_acks (writer, DDS_SECS (2));
  dds_delete (writer);
  return matched.current_count > 0 ? "sent" : "unmatched";
}

static int take_for (dds_entity_t reader, double seconds)
{
  int count = 0;
  for (int wait = 0; wait < seconds * 20; wait++)
  {
    void *samples[8] = { NULL };
    dds_sample_info_t infos[8];
    dds_sleepfor (DDS_MSECS (50));
    const dds_return_t taken = dds_take (reader, samples, infos, 8, 8);
    for (int i = 0; i < taken; i++)
      count += infos[i].valid_data;
    if (taken > 0)
      dds_return_loan (reader, samples, taken);
  }
  return count;
}

static void set_file (dds_qos_t *qos, const char *property, const char *folder, const char *name)
{
  char value[4096];
  snprintf (value, sizeof (value), "file:%s/%s", folder, name);
  dds_qset_prop (qos, property, value);
}

static void set_plugin (dds_qos_t *qos, const char *prefix, const char *folder, const char *part, const char *of)
{
  char property[256], value[4096];
  snprintf (property, sizeof (property), "%s.library.path", prefix);
  snprintf (value, sizeof (value), "%s/libdds_security_%s.so", folder, part);
  dds_qset_prop (qos, property, value);
  snprintf (property, sizeof (property), "%s.library.init", prefix);
  snprintf (value, sizeof (value), "init_%s", of);
  dds_qset_prop (qos, property, value);
  snprintf (property, sizeof (property), "%s.library.finalize", prefix);
  snprintf (value, sizeof (value), "finalize_%s", of);
  dds_qset_prop (qos, property, value);
}

int main (int argc, char **argv)
{
  if (argc != 4)
    return 2;
  dds_qos_t *qos = dds_create_qos ();
  if (strcmp (argv[1], "-") != 0)
  {
    set_file (qos, "dds.sec.auth.identity_ca", argv[1], "identity_ca.cert.pem");
    set_file (qos, "dds.sec.auth.private_key", argv[1], "key.pem");
    set_file (qos, "dds.sec.auth.identity_certificate", argv[1], "cert.pem");
    set_file (qos, "dds.sec.access.permissions_ca", argv[1], "permissions_ca.cert.pem");
    set_file (qos, "dds.sec.access.governance", argv[1], "governance.p7s");
    set_file (qos, "dds.sec.access.permissions", argv[1], "permissions.p7s");
    set_plugin (qos, "dds.sec.auth", argv[3], "auth", "authentication");
    set_plugin (qos, "dds.sec.access", argv[3], "ac", "access_control");
    set_plugin (qos, "dds.sec.crypto", argv[3], "crypto", "crypto");
  }
  participant = dds_create_participant ((dds_domainid_t) atoi (argv[2]), qos, NULL);
  if (participant < 0)
  {
    printf ("no participant: %s\n", dds_strretcode (participant));
    return 1;
  }
  reliable = dds_create_qos ();
  dds_qset_reliability (reliable, DDS_RELIABILITY_RELIABLE, DDS_SECS (2));
  dds_qset_history (reliable, DDS_HISTORY_KEEP_ALL, 0);
  printf ("ready\n");
  fflush (stdout);
  char verb[16], name[1024];
  double seconds;
  while (scanf ("%15s %1023s", verb, name) == 2)
  {
    if (strcmp (verb, "pub") == 0)
      printf ("%s\n", verdict (writer_of (name)));
    else if (strcmp (verb, "sub") == 0)
      printf ("%s\n", verdict (reader_of (name)));
    else if (strcmp (verb, "send") == 0)
      printf ("%s\n", send_one (name));
    else if (strcmp (verb, "take") == 0 && scanf ("%lf", &seconds) == 1)
    {
      const dds_entity_t reader = reader_of (name);
      if (reader < 0)
        printf ("%s\n", verdict (reader));
      else
        printf ("%d\n", take_for (reader, seconds));
      if (reader >= 0)
        dds_delete (reader);
    }
    else
      return 2;
    fflush (stdout);
  }
  return 0;
}

# Runs TRAIN (train.c) under RULES, and lays the profile of each source, as FOLDER/profiles lists them, beside its
# object, where gcc looks for it. One that has not changed stays as old as it is: nothing is compiled again for it.
file(REMOVE_RECURSE ${FOLDER}/seen)
set(ENV{GCOV_PREFIX} ${FOLDER}/seen)
set(ENV{GCOV_PREFIX_STRIP} 99) # a file's name alone, wherever its object was
execute_process(COMMAND ${TRAIN} ${RULES} WORKING_DIRECTORY ${FOLDER} RESULT_VARIABLE ended OUTPUT_VARIABLE told
                ERROR_VARIABLE told)
if(NOT ended EQUAL 0)
  message(FATAL_ERROR "the training ended with ${ended} (-DKMSGATE_TRAINED=OFF builds without it): ${told}")
endif()
file(STRINGS ${FOLDER}/profiles profiles)
foreach(profile ${profiles})
  get_filename_component(name ${profile} NAME)
  if(NOT EXISTS ${FOLDER}/seen/${name})
    message(FATAL_ERROR "the training made no ${name} (-DKMSGATE_TRAINED=OFF builds without it): ${told}")
  endif()
  file(COPY_FILE ${FOLDER}/seen/${name} ${profile} ONLY_IF_DIFFERENT)
endforeach()
file(TOUCH ${FOLDER}/done)
